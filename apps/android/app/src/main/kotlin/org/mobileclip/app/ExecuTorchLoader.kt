package org.mobileclip.app

import android.os.Build
import org.mobileclip.kit.Artifact
import org.mobileclip.kit.FloatTensor
import org.mobileclip.kit.IntTensor
import org.mobileclip.kit.Loader
import org.mobileclip.kit.Runner
import org.mobileclip.kit.Tensor
import org.pytorch.executorch.DType
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor as RuntimeTensor

/**
 * Loads artifacts by memory mapping: pages that are not needed are not read, and the system may
 * drop them.
 */
class ExecuTorchLoader : Loader {
    override fun load(artifact: Artifact, path: String, threads: Int): Runner {
        val module =
            try {
                Module.load(path, Module.LOAD_MODE_MMAP, threads)
            } catch (error: LinkageError) { // the library has no native code for this processor
                throw IllegalStateException(
                    "ExecuTorch does not run on ${Build.SUPPORTED_ABIS.joinToString()}",
                    error,
                )
            }
        try {
            module.loadMethod(FORWARD)
        } catch (error: RuntimeException) {
            module.destroy()
            throw error
        }
        return ExecuTorchRunner(module, artifact, threads.takeIf { it > 0 })
    }

    private companion object {
        const val FORWARD = "forward"
    }
}

/** One artifact in ExecuTorch. */
private class ExecuTorchRunner(
    private val module: Module,
    private val artifact: Artifact,
    override val threads: Int?,
) : Runner {
    override val runtime = "executorch"
    override val version = null // the AAR does not tell it

    override val provider: String =
        module
            .getMethodMetadata("forward")
            .backends
            .map { it.removeSuffix("Backend").lowercase() }
            .distinct()
            .joinToString("+")
            .ifEmpty { "portable" }

    override fun run(inputs: List<Tensor>): List<Tensor> {
        val values =
            inputs.mapIndexed { place, input ->
                EValue.from(taken(input, artifact.inputs[place].dtype))
            }
        return module.forward(*values.toTypedArray()).map { given(it.toTensor()) }
    }

    private fun taken(input: Tensor, dtype: String): RuntimeTensor {
        val shape = LongArray(input.shape.size) { input.shape[it].toLong() }
        return when (input) {
            is FloatTensor -> RuntimeTensor.fromBlob(input.values, shape)
            is IntTensor ->
                if (dtype == "int64") {
                    RuntimeTensor.fromBlob(
                        LongArray(input.size) { input.values[it].toLong() },
                        shape,
                    )
                } else {
                    RuntimeTensor.fromBlob(input.values, shape)
                }
        }
    }

    private fun given(output: RuntimeTensor): Tensor {
        val shape = output.shape().let { sides -> IntArray(sides.size) { sides[it].toInt() } }
        return when (val dtype = output.dtype()) {
            DType.FLOAT,
            DType.HALF -> FloatTensor(shape, output.dataAsFloatArray)
            DType.INT32 -> IntTensor(shape, output.dataAsIntArray)
            DType.INT64 ->
                IntTensor(
                    shape,
                    output.dataAsLongArray.let { all -> IntArray(all.size) { all[it].toInt() } },
                )
            DType.UINT8 ->
                IntTensor(
                    shape,
                    output.dataAsUnsignedByteArray.let { all ->
                        IntArray(all.size) { all[it].toInt() and 255 }
                    },
                )
            DType.INT8 ->
                IntTensor(
                    shape,
                    output.dataAsByteArray.let { all -> IntArray(all.size) { all[it].toInt() } },
                )
            else -> throw IllegalStateException("an output of type $dtype is not understood")
        }
    }

    override fun close() = module.destroy()
}
