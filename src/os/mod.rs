//! os: the only room with unsafe code. Owns ptrace, process_vm_readv, mmap and the parsing of /proc.
//! Knows Linux and the two architectures; does not know Go.

pub mod descriptors;
pub mod memory;
pub mod mmap;
pub mod procfs;
pub mod ptrace;
pub mod vm;
