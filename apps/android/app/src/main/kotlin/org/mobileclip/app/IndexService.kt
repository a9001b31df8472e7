package org.mobileclip.app

import android.app.job.JobInfo
import android.app.job.JobParameters
import android.app.job.JobScheduler
import android.app.job.JobService
import android.content.ComponentName
import android.content.Context
import android.util.Log
import java.util.concurrent.atomic.AtomicBoolean
import org.mobileclip.kit.KitException

/**
 * Indexes photos in the background. The system may stop it at any time (and starts it again later);
 * every photo is on disk when it is done, so that nothing is lost.
 */
class IndexService : JobService() {
    private val stopped = AtomicBoolean()

    override fun onStartJob(parameters: JobParameters): Boolean {
        val app = application as App
        val engine = (app.state as? ModelState.Ready)?.engine
        if (engine == null || !engine.hasTowers || !app.library.isAllowed)
            return false // begun again when the screen is
        Thread({ run(app, engine, parameters) }, "indexing").start()
        return true
    }

    private fun run(app: App, engine: Engine, parameters: JobParameters) {
        var again = false
        try {
            app.library.index(engine, stopped::get)
        } catch (error: KitException) {
            Log.w(TAG, error.message.orEmpty())
            again = true
        } catch (error: RuntimeException) { // the runtime's, or the permission went
            Log.w(TAG, "indexing stopped", error)
            again = true
        }
        jobFinished(parameters, again)
    }

    override fun onStopJob(parameters: JobParameters): Boolean {
        stopped.set(true)
        return true
    }

    companion object {
        private const val JOB = 1
        private const val TAG = "IndexService"

        /** Begins, unless it is running or waiting already. */
        fun begin(context: Context) {
            val scheduler = context.service<JobScheduler>()
            if (scheduler.getPendingJob(JOB) != null) return
            val job =
                JobInfo.Builder(JOB, ComponentName(context, IndexService::class.java))
                    .setOverrideDeadline(0)
                    .build()
            scheduler.schedule(job)
        }
    }
}
