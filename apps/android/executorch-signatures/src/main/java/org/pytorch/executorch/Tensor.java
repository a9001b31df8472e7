package org.pytorch.executorch;

/** Signatures alone; see Module. */
public abstract class Tensor {
    private Tensor() {}

    public static Tensor fromBlob(float[] data, long[] shape) {
        throw new UnsupportedOperationException();
    }

    public static Tensor fromBlob(int[] data, long[] shape) {
        throw new UnsupportedOperationException();
    }

    public static Tensor fromBlob(long[] data, long[] shape) {
        throw new UnsupportedOperationException();
    }

    public abstract DType dtype();

    public long[] shape() {
        throw new UnsupportedOperationException();
    }

    public float[] getDataAsFloatArray() {
        throw new UnsupportedOperationException();
    }

    public int[] getDataAsIntArray() {
        throw new UnsupportedOperationException();
    }

    public long[] getDataAsLongArray() {
        throw new UnsupportedOperationException();
    }

    public byte[] getDataAsByteArray() {
        throw new UnsupportedOperationException();
    }

    public byte[] getDataAsUnsignedByteArray() {
        throw new UnsupportedOperationException();
    }
}
