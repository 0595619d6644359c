//! The `record-drill` Lambda.

fn main() -> Result<(), lambda_runtime::Error> {
    highwater_functions::mains::record_drill()
}
