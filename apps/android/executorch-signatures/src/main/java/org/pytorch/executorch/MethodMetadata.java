package org.pytorch.executorch;

/** Signatures alone; see Module. */
public class MethodMetadata {
    private MethodMetadata() {}

    public String[] getBackends() {
        throw new UnsupportedOperationException();
    }
}
