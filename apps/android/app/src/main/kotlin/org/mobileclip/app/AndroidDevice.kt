package org.mobileclip.app

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.Debug
import android.os.PowerManager
import java.time.OffsetDateTime
import java.time.temporal.ChronoUnit
import org.mobileclip.kit.DeviceReader

/** What Android tells about itself while the protocol measures. */
class AndroidDevice(private val context: Context) : DeviceReader {
    private val power = context.service<PowerManager>()
    private val activities = context.service<ActivityManager>()

    override fun facts(): Map<String, Any?> =
        linkedMapOf(
            "kind" to "android",
            "name" to Build.MODEL,
            "model" to "${Build.MANUFACTURER} ${Build.MODEL}",
            "soc" to
                if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S)
                    "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}"
                else Build.HARDWARE,
            "os" to "Android ${Build.VERSION.RELEASE} ${Build.DISPLAY}",
            "cores" to Runtime.getRuntime().availableProcessors(),
            "memory_bytes" to ActivityManager.MemoryInfo().also(activities::getMemoryInfo).totalMem,
            "details" to
                linkedMapOf(
                    "fingerprint" to Build.FINGERPRINT,
                    "battery_percent" to
                        context
                            .service<BatteryManager>()
                            .getIntProperty(BatteryManager.BATTERY_PROPERTY_CAPACITY),
                    "charging" to context.service<BatteryManager>().isCharging,
                    "power_save" to power.isPowerSaveMode,
                ),
        )

    override fun thermal(): Map<String, Any?> =
        linkedMapOf(
            "status" to STATUSES[power.currentThermalStatus],
            "headroom" to power.getThermalHeadroom(0).takeIf { it.isFinite() },
            "celsius" to battery()?.let { it / 10.0 },
        )

    private fun battery(): Int? =
        context
            .registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
            ?.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, Int.MIN_VALUE)
            ?.takeIf { it != Int.MIN_VALUE }

    /** Proportional set size: what the process really holds, mapped weights included. */
    override fun memory(): Long = Debug.MemoryInfo().also(Debug::getMemoryInfo).totalPss * 1024L

    override fun fixedPerformance(): Boolean? = null // an app is not told; adb sets it

    override fun affinity(): List<Int>? = null

    override fun date(): String = OffsetDateTime.now().truncatedTo(ChronoUnit.SECONDS).toString()

    private companion object {
        val STATUSES =
            mapOf(
                PowerManager.THERMAL_STATUS_NONE to "nominal",
                PowerManager.THERMAL_STATUS_LIGHT to "light",
                PowerManager.THERMAL_STATUS_MODERATE to "moderate",
                PowerManager.THERMAL_STATUS_SEVERE to "severe",
                PowerManager.THERMAL_STATUS_CRITICAL to "critical",
                PowerManager.THERMAL_STATUS_EMERGENCY to "emergency",
                PowerManager.THERMAL_STATUS_SHUTDOWN to "shutdown",
            )
    }
}
