//! The `finish-promote` Lambda.

fn main() -> Result<(), lambda_runtime::Error> {
    highwater_functions::mains::finish_promote()
}
