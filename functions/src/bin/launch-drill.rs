//! The `launch-drill` Lambda.

fn main() -> Result<(), lambda_runtime::Error> {
    highwater_functions::mains::launch_drill()
}
