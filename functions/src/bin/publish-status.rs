//! The `publish-status` Lambda.

fn main() -> Result<(), lambda_runtime::Error> {
    highwater_functions::mains::publish_status()
}
