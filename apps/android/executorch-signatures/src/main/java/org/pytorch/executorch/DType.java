package org.pytorch.executorch;

/** Signatures alone; see Module. */
public enum DType {
    UINT8,
    INT8,
    INT32,
    INT64,
    HALF,
    FLOAT
}
