//! os: the only room with unsafe code. Owns ptrace, process_vm_readv, signals, mmap and /proc parsing.
//! Knows Linux and the two architectures; does not know Go.
