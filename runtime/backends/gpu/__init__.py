"""Workers with memories of their own: devices, where data is, and the streams that kernels are launched on."""
