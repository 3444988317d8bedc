//! The ELF notes of a guest's kernel (`elfnote.h`).

/// The owner of the notes.
pub const OWNER: &[u8] = b"Xen";
/// The type of the note with the physical address of the PVH entry point
/// (`XEN_ELFNOTE_PHYS32_ENTRY`).
pub const PHYS32_ENTRY: u32 = 18;
