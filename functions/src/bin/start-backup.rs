//! The `start-backup` Lambda.

fn main() -> Result<(), lambda_runtime::Error> {
    highwater_functions::mains::start_backup()
}
