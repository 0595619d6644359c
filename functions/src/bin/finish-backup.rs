//! The `finish-backup` Lambda.

fn main() -> Result<(), lambda_runtime::Error> {
    highwater_functions::mains::finish_backup()
}
