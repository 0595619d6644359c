//! The `plan-restore` Lambda.

fn main() -> Result<(), lambda_runtime::Error> {
    highwater_functions::mains::plan_restore()
}
