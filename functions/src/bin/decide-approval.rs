//! The `decide-approval` Lambda.

fn main() -> Result<(), lambda_runtime::Error> {
    highwater_functions::mains::decide_approval()
}
