//! The `tidegate` command.

/// Messages are allocated by the worker that reads them and freed by the one that writes them last: the system's allocator
/// spends a fifth of the broker's time on that. Without huge pages (`no_thp`): with them a server of 25 MiB took 39, and a thousand
/// slow clients 70 more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`, which the bindings do not name: its place among the options of mimalloc 3.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// After how many milliseconds memory that nobody uses any more goes back to the system. With mimalloc's own 1,000 what a
/// flood had used was there while the next one took more: a sixth to a fourth of the memory at its peak.
const PURGE_DELAY_MS: std::ffi::c_long = 10;

#[allow(
    unsafe_code,
    reason = "a setting of the allocator, which has no safe binding: it takes two numbers and checks the first"
)]
fn give_memory_back_soon() {
    // SAFETY: any number is taken; an option that does not exist is ignored. An environment variable comes before it.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) }
}

fn main() -> std::process::ExitCode {
    give_memory_back_soon();
    tidegate::cli::main()
}
