//! The `request-approval` Lambda.

fn main() -> Result<(), lambda_runtime::Error> {
    highwater_functions::mains::request_approval()
}
