//! What the deployment is estimated to cost in a month: a metric, on which an alarm stands.
//!
//! Estimating reads every backup's record, so that it is done a few times a day, and what it gave is kept in one item: the
//! metric is written with every run, and its absence means that nothing runs.

use super::Reconcile;
use crate::error::{FunctionError, Name};
use crate::metrics::emit;
use highwater_aws::cost::month_use;
use highwater_aws::table::{Key, Write};
use highwater_core::cost::{Estimate, month};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How old an estimate may become.
const FRESH: SignedDuration = SignedDuration::from_hours(6);

/// The item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CostRecord {
    format: String,
    estimated_at: Timestamp,
    amount: f64,
    currency: String,
    /// What has no price: the amount is too low by it.
    unpriced: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cap_per_month: Option<f64>,
}

fn key() -> Key {
    Key { pk: "deployment".to_owned(), sk: "cost".to_owned() }
}

impl Reconcile {
    /// Writes the metric, from a new estimate if the last one is old.
    pub(super) async fn cost(&self) -> Result<Vec<String>, FunctionError> {
        let now = Timestamp::now();
        let table = self.catalog.table();
        let last: Option<CostRecord> = table.get(&key()).await?;
        let record = match last.filter(|last| now.duration_since(last.estimated_at) < FRESH) {
            Some(fresh) => fresh,
            None => {
                let record = self.estimate(now).await?;
                table.write(vec![Write::put(key(), &record)?]).await?;
                record
            }
        };
        emit(&self.deployment, None, &[("EstimatedMonthlyCost", "None", record.amount)]);
        Ok(sentences(&record))
    }

    async fn estimate(&self, now: Timestamp) -> Result<CostRecord, FunctionError> {
        let cost = self.ssm.deployment(&self.deployment).await?.cost;
        let mut total = Estimate::fixed(&cost.prices);
        let mut errors = Vec::new();
        for config in self.ssm.clusters(&self.clusters).await? {
            match config {
                Ok(config) => total = total.and(month(&cost.prices, &month_use(&self.catalog, &config.cluster, now).await?).total),
                Err(error) => errors.push(error.to_string()),
            }
        }
        // A cluster left out would make the sum a lie.
        if !errors.is_empty() {
            return Err(FunctionError::new(Name::Permanent, errors.join("; ")));
        }
        Ok(CostRecord {
            format: "highwater.catalog.cost.v1".to_owned(),
            estimated_at: now,
            amount: total.amount,
            currency: cost.prices.currency,
            unpriced: total.unpriced,
            cap_per_month: cost.cap_per_month,
        })
    }
}

fn sentences(record: &CostRecord) -> Vec<String> {
    let CostRecord { amount, currency, unpriced, cap_per_month, .. } = record;
    let over = cap_per_month.filter(|cap| amount > cap);
    let over = over.map(|cap| format!("a month is estimated to cost {amount:.2} {currency}, {cap:.2} are allowed"));
    over.into_iter().chain(unpriced.iter().map(|why| format!("the estimated cost is too low: {why}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_that_is_passed_and_a_price_that_is_missing_are_said() {
        let mut record = CostRecord {
            format: String::new(),
            estimated_at: Timestamp::UNIX_EPOCH,
            amount: 41.5,
            currency: "USD".into(),
            unpriced: vec![],
            cap_per_month: Some(41.5),
        };
        assert!(sentences(&record).is_empty());
        record.amount = 41.51;
        record.unpriced = vec!["no price for x9.metal".into()];
        let said = sentences(&record);
        assert_eq!(said[0], "a month is estimated to cost 41.51 USD, 41.50 are allowed");
        assert_eq!(said[1], "the estimated cost is too low: no price for x9.metal");
    }
}
