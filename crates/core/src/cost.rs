//! What a deployment costs, estimated: sizes, requests and instance minutes times a table of prices. Pure.
//!
//! An estimate is for deciding, not for accounting: the bill has taxes, discounts, transfer and what others do in the account.
//! What has no price in the table is named and never counted as nothing. A GB is 2^30 bytes, as AWS bills it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Of a deployment's configuration: the cap and the prices. `infra/README.md` explains the keys and where the defaults come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostConfig {
    /// A month that is estimated to cost more is an alarm; none: nobody minds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_per_month: Option<f64>,
    /// The prices.
    pub prices: Prices,
}

/// A table of prices, each in `currency`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Like `USD`.
    pub currency: String,
    /// Where the prices are from, and of when.
    pub source: String,
    /// S3: storing a GB for a month.
    pub storage_gb_month: f64,
    /// S3: a thousand PUT, POST or LIST requests.
    pub put_per_1000: f64,
    /// S3: a thousand GET or HEAD requests.
    pub get_per_1000: f64,
    /// EBS: a GB of a drill's volume for a month.
    pub volume_gb_month: f64,
    /// DynamoDB: a million write units.
    pub write_per_million: f64,
    /// DynamoDB: a million read units.
    pub read_per_million: f64,
    /// Lambda: a GB-second.
    pub function_gb_second: f64,
    /// Step Functions: a thousand transitions.
    pub transition_per_1000: f64,
    /// What a deployment costs in a month though nothing happens: keys, alarms, logs, reconciliation.
    pub fixed_per_month: f64,
    /// EC2: an hour of an instance, by type.
    pub instance_hour: BTreeMap<String, f64>,
}

impl Prices {
    /// Whether every price is a price.
    ///
    /// # Errors
    /// The first that is none.
    pub fn check(&self) -> Result<(), String> {
        let fixed = [
            ("storage_gb_month", self.storage_gb_month),
            ("put_per_1000", self.put_per_1000),
            ("get_per_1000", self.get_per_1000),
            ("volume_gb_month", self.volume_gb_month),
            ("write_per_million", self.write_per_million),
            ("read_per_million", self.read_per_million),
            ("function_gb_second", self.function_gb_second),
            ("transition_per_1000", self.transition_per_1000),
            ("fixed_per_month", self.fixed_per_month),
        ];
        let hours = self.instance_hour.iter().map(|(name, price)| (name.as_str(), *price));
        match fixed.into_iter().chain(hours).find(|(_, price)| !price.is_finite() || *price < 0.0) {
            Some((name, price)) => Err(format!("the price {name} is {price}")),
            None => Ok(()),
        }
    }
}

/// A backup, as far as it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupUse {
    /// Bytes stored.
    pub stored_bytes: u64,
}

/// A drill, as far as it costs.
#[derive(Debug, Clone, PartialEq)]
pub struct DrillUse {
    /// The instance, if one was launched; drills that ended before had none.
    pub instance: Option<InstanceUse>,
    /// Bytes that were fetched, as they are stored.
    pub fetched_bytes: u64,
}

/// An instance that was used.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceUse {
    /// Its type; absent where it was not recorded.
    pub instance_type: Option<String>,
    /// Its volume, GiB.
    pub volume_gib: u64,
    /// For how long, seconds.
    pub seconds: f64,
}

/// A cluster's last thirty days.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MonthUse {
    /// Bytes of all committed backups, now.
    pub kept_bytes: u64,
    /// The database's size: the files of the newest full, bytes.
    pub protected_bytes: u64,
    /// Backups committed within the thirty days.
    pub backups: Vec<BackupUse>,
    /// Drills that ended within them.
    pub drills: Vec<DrillUse>,
}

/// One line of an estimate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// What is paid for.
    pub what: &'static str,
    /// How much of it.
    pub quantity: f64,
    /// In what.
    pub unit: &'static str,
    /// What it costs; absent where the table has no price for it.
    pub amount: Option<f64>,
}

/// An estimate.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Estimate {
    /// Everything that has a price, together.
    pub amount: f64,
    /// What has none, in words: the amount is too low by it.
    pub unpriced: Vec<String>,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// A cluster's month.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Month {
    /// Storing what is kept for a month, and the backups and drills of the last thirty days.
    pub total: Estimate,
    /// How many backups that were.
    pub backups: usize,
    /// How many drills.
    pub drills: usize,
    /// A backup of these, on average; absent without one.
    pub per_backup: Option<f64>,
    /// A drill, on average.
    pub per_drill: Option<f64>,
    /// GB that are protected: the database's size.
    pub protected_gb: f64,
    /// Of the total, for each of them; absent where nothing is.
    pub per_protected_gb: Option<f64>,
}

const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1024.0 * MIB;
/// Thirty days, as the price lists count a month (730 hours).
const MONTH_SECONDS: f64 = 730.0 * 3600.0;
/// An upload's first parts; the later ones are twice as large (see Data objects in FORMAT.md).
const PART_BYTES: f64 = 8.0 * MIB;
const FIRST_PARTS: f64 = 2000.0;
/// Beside a backup's parts: request, create, complete, inventory, manifest.
const PUTS_BESIDE: f64 = 6.0;
/// A backup's manifest, request and objects are read and looked at.
const GETS_OF_BACKUP: f64 = 10.0;
/// A backup's transactions: intent, command, commit with its points, close. A transaction's unit counts twice.
const WRITES_OF_BACKUP: f64 = 80.0;
/// The head, the lease, and the manifests of its chain.
const READS_OF_BACKUP: f64 = 200.0;
/// Three invocations of a few seconds with 256 MiB.
const GB_SECONDS_OF_BACKUP: f64 = 3.0;
/// A restore reads ranges of about so much.
const RANGE_BYTES: f64 = 8.0 * MIB;
/// States of the drill machine, each entered once.
const TRANSITIONS_OF_DRILL: f64 = 10.0;
/// Plan, host.toml, token, report, page, certificate, signature.
const PUTS_OF_DRILL: f64 = 7.0;
const WRITES_OF_DRILL: f64 = 20.0;
const READS_OF_DRILL: f64 = 200.0;
const GB_SECONDS_OF_DRILL: f64 = 3.0;
/// EC2 charges a minute at least.
const LEAST_SECONDS: f64 = 60.0;

impl Estimate {
    fn add(&mut self, what: &'static str, quantity: f64, unit: &'static str, price: f64) {
        if quantity > 0.0 {
            let amount = quantity * price;
            self.amount += amount;
            self.lines.push(Line { what, quantity, unit, amount: Some(amount) });
        }
    }

    fn add_unpriced(&mut self, what: &'static str, quantity: f64, unit: &'static str, why: String) {
        self.lines.push(Line { what, quantity, unit, amount: None });
        if !self.unpriced.contains(&why) {
            self.unpriced.push(why);
        }
    }

    /// Two estimates as one: lines of the same thing become one line.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.amount += other.amount;
        for line in other.lines {
            match self.lines.iter_mut().find(|l| l.what == line.what && l.amount.is_some() == line.amount.is_some()) {
                Some(same) => {
                    same.quantity += line.quantity;
                    same.amount = same.amount.zip(line.amount).map(|(a, b)| a + b);
                }
                None => self.lines.push(line),
            }
        }
        for why in other.unpriced {
            if !self.unpriced.contains(&why) {
                self.unpriced.push(why);
            }
        }
        self
    }

    /// What a deployment costs though nothing happens.
    pub fn fixed(prices: &Prices) -> Self {
        let mut estimate = Self::default();
        estimate.add("keys, alarms, logs, reconciliation", 1.0, "month", prices.fixed_per_month);
        estimate
    }
}

/// What making a backup costs. Keeping it is [`storage`].
pub fn backup(prices: &Prices, used: BackupUse) -> Estimate {
    let mut estimate = Estimate::default();
    let parts = used.stored_bytes as f64 / PART_BYTES;
    let parts = (parts.min(FIRST_PARTS) + (parts - FIRST_PARTS).max(0.0) / 2.0).ceil();
    estimate.add("S3 PUT requests", parts + PUTS_BESIDE, "requests", prices.put_per_1000 / 1e3);
    estimate.add("S3 GET requests", GETS_OF_BACKUP, "requests", prices.get_per_1000 / 1e3);
    estimate.add("catalog writes", WRITES_OF_BACKUP, "units", prices.write_per_million / 1e6);
    estimate.add("catalog reads", READS_OF_BACKUP, "units", prices.read_per_million / 1e6);
    estimate.add("functions", GB_SECONDS_OF_BACKUP, "GB-seconds", prices.function_gb_second);
    estimate
}

/// What a drill costs.
pub fn drill(prices: &Prices, used: &DrillUse) -> Estimate {
    let mut estimate = Estimate::default();
    if let Some(instance) = &used.instance {
        let hours = instance.seconds.max(LEAST_SECONDS) / 3600.0;
        let price = instance.instance_type.as_ref().map(|name| (name, prices.instance_hour.get(name)));
        match price {
            Some((_, Some(price))) => estimate.add("drill instances", hours, "hours", *price),
            Some((name, None)) => {
                estimate.add_unpriced(
                    "drill instances",
                    hours,
                    "hours",
                    format!("no price for {name}: add it to cost.prices.instance_hour"),
                );
            }
            None => estimate.add_unpriced("drill instances", hours, "hours", "drills whose instance type was not recorded".to_owned()),
        }
        let gb_months = instance.volume_gib as f64 * instance.seconds / MONTH_SECONDS;
        estimate.add("drill volumes", gb_months, "GB-months", prices.volume_gb_month);
    }
    let ranges = (used.fetched_bytes as f64 / RANGE_BYTES).ceil();
    estimate.add("S3 PUT requests", PUTS_OF_DRILL, "requests", prices.put_per_1000 / 1e3);
    estimate.add("S3 GET requests", ranges, "requests", prices.get_per_1000 / 1e3);
    estimate.add("catalog writes", WRITES_OF_DRILL, "units", prices.write_per_million / 1e6);
    estimate.add("catalog reads", READS_OF_DRILL, "units", prices.read_per_million / 1e6);
    estimate.add("functions", GB_SECONDS_OF_DRILL, "GB-seconds", prices.function_gb_second);
    estimate.add("state transitions", TRANSITIONS_OF_DRILL, "transitions", prices.transition_per_1000 / 1e3);
    estimate
}

/// What storing bytes for a month costs.
pub fn storage(prices: &Prices, bytes: u64) -> Estimate {
    let mut estimate = Estimate::default();
    estimate.add("S3 storage", bytes as f64 / GIB, "GB-months", prices.storage_gb_month);
    estimate
}

/// What a cluster's month costs: what is kept now for a month, and what the last thirty days made.
pub fn month(prices: &Prices, used: &MonthUse) -> Month {
    let sum = |estimates: &[Estimate]| estimates.iter().cloned().fold(Estimate::default(), Estimate::and);
    let backups: Vec<_> = used.backups.iter().map(|used| backup(prices, *used)).collect();
    let drills: Vec<_> = used.drills.iter().map(|used| drill(prices, used)).collect();
    let total = storage(prices, used.kept_bytes).and(sum(&backups)).and(sum(&drills));
    let each = |estimates: &[Estimate]| (!estimates.is_empty()).then(|| sum(estimates).amount / estimates.len() as f64);
    let protected_gb = used.protected_bytes as f64 / GIB;
    Month {
        backups: backups.len(),
        drills: drills.len(),
        per_backup: each(&backups),
        per_drill: each(&drills),
        per_protected_gb: (protected_gb > 0.0).then(|| total.amount / protected_gb),
        protected_gb,
        total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> Prices {
        Prices {
            currency: "USD".into(),
            source: "a test".into(),
            storage_gb_month: 0.02,
            put_per_1000: 0.005,
            get_per_1000: 0.0004,
            volume_gb_month: 0.088,
            write_per_million: 0.7,
            read_per_million: 0.14,
            function_gb_second: 0.00002,
            transition_per_1000: 0.025,
            fixed_per_month: 6.0,
            instance_hour: BTreeMap::from([("m7i.large".to_owned(), 0.1)]),
        }
    }

    fn amount(estimate: &Estimate, what: &str) -> f64 {
        estimate.lines.iter().filter(|l| l.what == what).find_map(|l| l.amount).unwrap_or_else(|| panic!("no {what}: {estimate:?}"))
    }

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    fn used(instance_type: Option<&str>) -> DrillUse {
        let instance = InstanceUse { instance_type: instance_type.map(str::to_owned), volume_gib: 730, seconds: 1800.0 };
        DrillUse { instance: Some(instance), fetched_bytes: 8 << 30 }
    }

    #[test]
    fn a_backup_costs_its_requests_and_keeping_it_its_bytes() {
        let made = backup(&prices(), BackupUse { stored_bytes: 16 << 30 });
        // 2,000 parts of 8 MiB are 16,000 MiB; the last 384 are 24 parts.
        near(amount(&made, "S3 PUT requests"), 2030.0 * 0.005 / 1000.0);
        near(amount(&backup(&prices(), BackupUse { stored_bytes: 1 }), "S3 PUT requests"), 7.0 * 0.005 / 1000.0);
        near(made.amount, made.lines.iter().filter_map(|l| l.amount).sum());
        near(storage(&prices(), 50 << 30).amount, 1.0);
        near(storage(&prices(), 0).amount, 0.0);
    }

    #[test]
    fn a_drill_costs_its_instance_by_the_second_and_a_minute_at_least() {
        let half_an_hour = drill(&prices(), &used(Some("m7i.large")));
        near(amount(&half_an_hour, "drill instances"), 0.05);
        near(amount(&half_an_hour, "drill volumes"), 0.5 * 0.088);
        near(amount(&half_an_hour, "S3 GET requests"), 1024.0 * 0.0004 / 1000.0);
        let mut short = used(Some("m7i.large"));
        short.instance.as_mut().unwrap().seconds = 5.0;
        near(amount(&drill(&prices(), &short), "drill instances"), 0.1 / 60.0);
        let none = drill(&prices(), &DrillUse { instance: None, fetched_bytes: 0 });
        assert!(none.lines.iter().all(|l| l.what != "drill instances") && none.unpriced.is_empty(), "{none:?}");
    }

    #[test]
    fn an_unknown_instance_type_is_said_and_not_counted_as_nothing() {
        let unknown = drill(&prices(), &used(Some("x9.metal")));
        assert_eq!(unknown.unpriced, ["no price for x9.metal: add it to cost.prices.instance_hour"]);
        assert!(unknown.lines.iter().any(|l| l.what == "drill instances" && l.amount.is_none() && l.quantity == 0.5));
        let month = month(
            &prices(),
            &MonthUse { drills: vec![used(Some("x9.metal")), used(None), used(Some("m7i.large"))], ..MonthUse::default() },
        );
        assert_eq!(month.total.unpriced.len(), 2, "{:?}", month.total.unpriced);
        near(amount(&month.total, "drill instances"), 0.05);
    }

    #[test]
    fn a_month_is_what_is_kept_and_what_was_made_for_each_protected_gb() {
        let backups = vec![BackupUse { stored_bytes: 1 << 30 }; 720];
        let used = MonthUse { kept_bytes: 100 << 30, protected_bytes: 50 << 30, backups, drills: vec![used(Some("m7i.large")); 4] };
        let month = month(&prices(), &used);
        near(amount(&month.total, "S3 storage"), 2.0);
        near(month.total.amount, 2.0 + 720.0 * month.per_backup.unwrap() + 4.0 * month.per_drill.unwrap());
        near(month.per_protected_gb.unwrap(), month.total.amount / 50.0);
        let empty = super::month(&prices(), &MonthUse::default());
        assert_eq!((empty.per_backup, empty.per_drill, empty.per_protected_gb, empty.total.amount), (None, None, None, 0.0));
        near(Estimate::fixed(&prices()).amount, 6.0);
    }

    #[test]
    fn a_price_that_is_none_is_refused_by_its_name() {
        assert_eq!(prices().check(), Ok(()));
        assert_eq!(Prices { put_per_1000: -1.0, ..prices() }.check(), Err("the price put_per_1000 is -1".to_owned()));
        let instance_hour = BTreeMap::from([("m7i.large".to_owned(), f64::NAN)]);
        assert_eq!(Prices { instance_hour, ..prices() }.check(), Err("the price m7i.large is NaN".to_owned()));
    }
}
