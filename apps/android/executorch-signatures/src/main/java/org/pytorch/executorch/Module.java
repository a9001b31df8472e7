package org.pytorch.executorch;

/**
 * Signatures of ExecuTorch's Module (extension/android/executorch_android, BSD-3-Clause) that the app calls, for
 * compiling where the AAR cannot be had. It runs nothing.
 */
public class Module implements java.io.Closeable {
    public static final int LOAD_MODE_MMAP = 1;

    private Module() {}

    public static Module load(String modelPath, int loadMode, int numThreads) {
        throw new UnsupportedOperationException("these are only signatures; the app links with ExecuTorch's AAR");
    }

    public EValue[] forward(EValue... inputs) {
        throw new UnsupportedOperationException();
    }

    public void loadMethod(String methodName) {
        throw new UnsupportedOperationException();
    }

    public MethodMetadata getMethodMetadata(String name) {
        throw new UnsupportedOperationException();
    }

    public void destroy() {
        throw new UnsupportedOperationException();
    }

    @Override
    public void close() {
        throw new UnsupportedOperationException();
    }
}
