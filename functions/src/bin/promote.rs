//! The `promote` Lambda.

fn main() -> Result<(), lambda_runtime::Error> {
    highwater_functions::mains::promote()
}
