//! `highwater-host`: see `highwater_host::cli`.

fn main() -> std::process::ExitCode {
    highwater_host::cli::main()
}
