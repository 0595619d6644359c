output "bucket" {
  description = "Where backups lie."
  value       = aws_cloudformation_stack.highwater.outputs["Bucket"]
}

output "pages" {
  description = "Where the status page (index.html) and the reports lie."
  value       = aws_cloudformation_stack.highwater.outputs["Pages"]
}

output "catalog" {
  description = "The catalog's table."
  value       = aws_cloudformation_stack.highwater.outputs["Catalog"]
}

output "signing_key" {
  description = "Signs drill certificates; its public half verifies them anywhere."
  value       = aws_cloudformation_stack.highwater.outputs["SigningKey"]
}

output "approval_url" {
  description = "Where promotions are asked for and decided."
  value       = aws_cloudformation_stack.highwater.outputs["ApprovalUrl"]
}

output "drill_machine" {
  description = "Start it with {\"cluster\":\"…\"}."
  value       = aws_cloudformation_stack.highwater.outputs["DrillMachine"]
}

output "promotion_machine" {
  description = "Start it with {\"cluster\":\"…\"}."
  value       = aws_cloudformation_stack.highwater.outputs["PromotionMachine"]
}
