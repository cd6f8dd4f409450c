//! The `tidegate` command.

/// Messages are allocated by the worker that reads them and freed by the one that writes them last: the system's allocator
/// spends a fifth of the broker's time on that. Without huge pages (`no_thp`): with them a server of 25 MiB took 39, and a thousand
/// slow clients 70 more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tidegate::memory::give_back_soon();
    tidegate::cli::main()
}
