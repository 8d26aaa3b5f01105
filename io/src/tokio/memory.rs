//! How the allocator gives memory back. After a burst of log the blocks that carried it are free; left to its own devices the C
//! library keeps them, and one arena for each thread that ever compressed a chunk.

/// Blocks from this size on are mapped, and unmapped when they are freed.
const MAPPED_FROM_BYTES: i32 = 128 * 1024;
/// Free memory at the top of the heap that is kept.
const KEPT_BYTES: i32 = 512 * 1024;
/// Arenas: one for the loop, one for the threads that compress.
const ARENAS: i32 = 2;

/// Tells the allocator of this process to return memory early. Call it before threads are started.
pub fn return_memory_early() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the calls only set parameters of the allocator; no other thread exists yet. A refusal leaves the default.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}
