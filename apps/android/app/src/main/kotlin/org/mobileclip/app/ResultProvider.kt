package org.mobileclip.app

import android.content.ContentProvider
import android.content.ContentValues
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.OpenableColumns
import java.io.File
import java.io.FileNotFoundException

/** Lets the apps that a result was shared with read it, and nothing else. */
class ResultProvider : ContentProvider() {
    override fun onCreate() = true

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
        if (mode != "r") throw FileNotFoundException("results are only read")
        return ParcelFileDescriptor.open(file(uri), ParcelFileDescriptor.MODE_READ_ONLY)
    }

    override fun query(
        uri: Uri,
        projection: Array<String>?,
        selection: String?,
        arguments: Array<String>?,
        order: String?,
    ): Cursor {
        val file = file(uri)
        return MatrixCursor(arrayOf(OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE)).apply {
            addRow(arrayOf<Any>(file.name, file.length()))
        }
    }

    override fun getType(uri: Uri) = "application/json"

    private fun file(uri: Uri): File {
        val name = uri.lastPathSegment.orEmpty()
        val file = File(File(context!!.filesDir, Benchmark.RESULTS), name)
        if (!NAME.matches(name) || !file.isFile)
            throw FileNotFoundException("there is no result $name")
        return file
    }

    override fun insert(uri: Uri, values: ContentValues?): Uri? = null

    override fun delete(uri: Uri, selection: String?, arguments: Array<String>?) = 0

    override fun update(
        uri: Uri,
        values: ContentValues?,
        selection: String?,
        arguments: Array<String>?,
    ) = 0

    companion object {
        private val NAME = Regex("[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]*\\.json")

        fun uri(file: File): Uri =
            Uri.Builder()
                .scheme("content")
                .authority("org.mobileclip.app.results")
                .appendPath(file.name)
                .build()
    }
}
