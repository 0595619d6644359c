//! A cluster's many backups do not make a decision slower: what is read for it does not grow with their number. Bytes are
//! counted on the wire, not time.

use highwater_aws::catalog::CatalogTable;
use highwater_aws::s3::Endpoint;
use highwater_aws::table::Table;
use highwater_core::ClusterId;
use highwater_core::plan::Target;
use highwater_core::planner::plan_restore;
use highwater_tests::{Cloud, Meter, add_chains, block_on, catalog_table};
use jiff::Timestamp;

#[test]
fn what_a_decision_reads_does_not_grow_with_the_number_of_backups() {
    let cloud = Cloud::start();
    let table = catalog_table(&cloud);
    let meter = Meter::before(cloud.url());
    let key = || "test".to_owned();
    let endpoint = Endpoint { url: meter.url().to_owned(), region: "eu-west-1".into(), access_key_id: key(), secret_access_key: key() };
    let metered = CatalogTable::new(Table::new(&block_on(endpoint.sdk_config()), "catalog"));
    let orders: ClusterId = "orders".parse().unwrap();

    // The bytes of: the next backup's window, and the plans to the newest, an old, a past and a first restore point.
    let read = |backups: usize| {
        let newest = block_on(metered.head(&orders)).unwrap().newest.unwrap();
        let first = "20261122T020003Z-full-0001".parse().unwrap();
        let past = newest.finished_at - jiff::SignedDuration::from_hours(60);
        let mut bytes = Vec::new();
        meter.reset();
        let window = block_on(metered.window(&orders)).unwrap();
        bytes.push(meter.bytes());
        assert_eq!(window.catalog.newest().unwrap().id(), &newest.backup_id, "of {backups}");
        for target in [
            Target::Latest,
            Target::Backup(newest.backup_id.clone()),
            Target::Backup(first),
            Target::Time(past),
            Target::Lsn(newest.last_lsn),
        ] {
            meter.reset();
            let window = block_on(metered.window_for(&orders, &target)).unwrap();
            bytes.push(meter.bytes());
            plan_restore(&window.catalog, &target, "backups", Timestamp::UNIX_EPOCH).unwrap();
        }
        bytes
    };
    add_chains(&table, 0, 8);
    let few = read(200);
    add_chains(&table, 8, 80);
    let many = read(2000);
    for (few, many) in few.iter().zip(&many) {
        assert!(many.abs_diff(*few) * 50 < *few, "ten times the backups, and {few} bytes became {many}");
    }
}
