//! A write load: transactions on a shop's tables, and DDL beside them.

use crate::block_on;
use crate::mariadb::MariaDb;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;

/// InnoDB with what makes rows interesting (NULLs, text beyond ASCII, blobs, a virtual column, a foreign key, compression),
/// and the two engines that know no transactions.
const SCHEMA: &str = "
    CREATE DATABASE IF NOT EXISTS shop;
    CREATE TABLE IF NOT EXISTS shop.customers (id INT PRIMARY KEY, name VARCHAR(80) NOT NULL, note TEXT NULL);
    CREATE TABLE IF NOT EXISTS shop.orders (
        id BIGINT PRIMARY KEY AUTO_INCREMENT, customer INT NOT NULL, cents BIGINT NOT NULL, placed DATETIME(6) NOT NULL,
        state ENUM('new','paid','shipped') NOT NULL DEFAULT 'new', payload VARBINARY(600) NULL,
        euros DECIMAL(20,2) AS (cents / 100) VIRTUAL, KEY by_customer (customer, placed),
        CONSTRAINT of_customer FOREIGN KEY (customer) REFERENCES shop.customers (id));
    CREATE TABLE IF NOT EXISTS shop.events (id BIGINT PRIMARY KEY AUTO_INCREMENT, what TEXT NOT NULL) ROW_FORMAT=COMPRESSED;
    CREATE TABLE IF NOT EXISTS shop.audit (id INT PRIMARY KEY AUTO_INCREMENT, line VARCHAR(200)) ENGINE=Aria TRANSACTIONAL=1;
    CREATE TABLE IF NOT EXISTS shop.counters (name VARCHAR(20) PRIMARY KEY, n BIGINT NOT NULL) ENGINE=MyISAM;
    INSERT IGNORE INTO shop.counters VALUES ('orders', 0);
    INSERT IGNORE INTO shop.customers SELECT seq, CONCAT('Zoë № ', seq), IF(seq % 3, CONCAT('☃ ', seq), NULL) FROM shop.seq_customers";

/// Workers that write until stopped. Dropping it stops them.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    paused: Option<OwnedRwLockWriteGuard<()>>,
}

#[derive(Debug)]
struct Shared {
    options: Opts,
    stop: AtomicBool,
    /// A worker holds it for reading during each transaction: whoever holds it for writing has them all between two.
    gate: Arc<RwLock<()>>,
    transactions: AtomicU64,
    ddl: AtomicU64,
    failures: AtomicU64,
    last_failure: std::sync::Mutex<Option<String>>,
}

/// What a load did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// Transactions committed.
    pub transactions: u64,
    /// DDL statements done.
    pub ddl: u64,
    /// Statements that failed for another reason than a deadlock; expected only where the server was stopped or fenced.
    pub failures: u64,
    /// What the last of them said.
    pub last_failure: Option<String>,
}

impl Load {
    /// Creates the schema `shop` with a thousand customers and `orders` orders, and nothing that writes.
    pub fn fill(db: &MariaDb, orders: u64) {
        let schema = SCHEMA.replace("shop.seq_customers", "shop.seq_1_to_1000");
        db.run(&schema);
        if orders > 0 {
            db.run(&format!(
                "INSERT INTO shop.orders (customer, cents, placed, payload)
                 SELECT 1 + seq % 1000, seq * 7 % 100000, TIMESTAMPADD(SECOND, seq, '2026-01-01'), RANDOM_BYTES(400) FROM shop.seq_1_to_{orders}"
            ));
        }
    }

    /// Fills the schema and starts two writers and one that does DDL.
    pub fn start(db: &MariaDb) -> Self {
        Self::start_with(db, 2, true)
    }

    /// The same with so many writers, and DDL or not.
    pub fn start_with(db: &MariaDb, writers: u64, ddl: bool) -> Self {
        Self::fill(db, 2000);
        let shared = Arc::new(Shared {
            options: OptsBuilder::from_opts(db.options()).into(),
            stop: AtomicBool::new(false),
            gate: Arc::default(),
            transactions: AtomicU64::new(0),
            ddl: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_failure: std::sync::Mutex::default(),
        });
        let workers = block_on(async {
            let writers = (1..=writers).map(|seed| tokio::spawn(work(Arc::clone(&shared), Job::Write { seed })));
            let ddl = ddl.then(|| tokio::spawn(work(Arc::clone(&shared), Job::Ddl)));
            writers.chain(ddl).collect()
        });
        let load = Self { shared, workers, paused: None };
        load.wait_for_progress();
        load
    }

    /// Waits until every kind of worker has done something more: the load is really running.
    pub fn wait_for_progress(&self) {
        let count = || (self.shared.transactions.load(Ordering::Relaxed), self.shared.ddl.load(Ordering::Relaxed));
        let (before, ddl) = (count(), self.workers.len() > 1);
        crate::wait_for("the load's progress", || {
            let now = count();
            (now.0 > before.0 + 20 && (!ddl || now.1 > before.1 || before.1 == 0)).then_some(())
        });
    }

    /// Lets every worker finish its transaction and start no other. The server is quiet when this returns.
    pub fn pause(&mut self) {
        if self.paused.is_none() {
            self.paused = Some(block_on(Arc::clone(&self.shared.gate).write_owned()));
        }
    }

    /// Goes on after `pause`.
    pub fn resume(&mut self) {
        self.paused = None;
    }

    /// Ends the workers, and says what they did.
    pub fn stop(mut self) -> LoadReport {
        self.end();
        LoadReport {
            transactions: self.shared.transactions.load(Ordering::Relaxed),
            ddl: self.shared.ddl.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
            last_failure: self.shared.last_failure.lock().expect("the failure's lock").clone(),
        }
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.paused = None;
        for worker in self.workers.drain(..) {
            block_on(worker).expect("a worker of the load");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
        self.workers.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Debug, Clone, Copy)]
enum Job {
    Write { seed: u64 },
    Ddl,
}

async fn work(shared: Arc<Shared>, job: Job) {
    let mut conn: Option<Conn> = None;
    let mut round = 0u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let _turn = Arc::clone(&shared.gate).read_owned().await;
        round += 1;
        let done = async {
            let conn = match &mut conn {
                Some(conn) => conn,
                None => conn.insert(Conn::new(shared.options.clone()).await?),
            };
            match job {
                Job::Write { seed } => transaction(conn, seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ round).await,
                Job::Ddl => ddl(conn, round).await,
            }
        };
        match done.await {
            Ok(()) => match job {
                Job::Write { .. } => shared.transactions.fetch_add(1, Ordering::Relaxed),
                Job::Ddl => shared.ddl.fetch_add(1, Ordering::Relaxed),
            },
            // Deadlock; lock wait timeout: the loser tries something else.
            Err(mysql_async::Error::Server(e)) if matches!(e.code, 1213 | 1205) => 0,
            Err(error) => {
                *shared.last_failure.lock().expect("the failure's lock") = Some(error.to_string());
                conn = None;
                // A server that is down is asked again, not hammered.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                shared.failures.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
    if let Some(conn) = conn {
        let _ = conn.disconnect().await;
    }
}

async fn transaction(conn: &mut Conn, seed: u64) -> mysql_async::Result<()> {
    let mut random = seed;
    let mut pick = |below: u64| {
        // xorshift: the seed decides everything.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (customer, cents, older) = (1 + pick(1000), pick(100_000), 1 + pick(3000));
    let mut sql = format!(
        "START TRANSACTION;
         INSERT INTO shop.orders (customer, cents, placed, payload) VALUES ({customer}, {cents}, NOW(6), RANDOM_BYTES({}));
         INSERT INTO shop.events (what) VALUES (REPEAT('paid {cents} ünits ', {}));
         UPDATE shop.orders SET state = 'paid', cents = cents + 1 WHERE id = {older};",
        pick(600) + 1,
        1 + pick(30),
    );
    if pick(4) == 0 {
        sql.push_str(&format!("DELETE FROM shop.events WHERE id < {older} ORDER BY id LIMIT 3;"));
    }
    if pick(10) == 0 {
        sql.push_str("ROLLBACK;");
    } else {
        sql.push_str("COMMIT;");
    }
    if pick(8) == 0 {
        sql.push_str(&format!(
            "UPDATE shop.counters SET n = n + 1 WHERE name = 'orders'; INSERT INTO shop.audit (line) VALUES ('order of {customer}');"
        ));
    }
    conn.query_drop(sql).await
}

/// One DDL statement a turn, round a table's whole life; the name changes with every life.
async fn ddl(conn: &mut Conn, round: u64) -> mysql_async::Result<()> {
    let (life, turn) = (round / 9, round % 9);
    let (name, renamed) = (format!("shop.churn_{life}"), format!("shop.churned_{life}"));
    let sql = match turn {
        0 => format!(
            "CREATE TABLE IF NOT EXISTS {name} (id INT PRIMARY KEY, v VARCHAR(100)) SELECT seq AS id, 'x' AS v FROM shop.seq_1_to_500"
        ),
        1 => format!("ALTER TABLE {name} ADD COLUMN w INT DEFAULT 7"),
        2 => format!("UPDATE {name} SET v = REPEAT('y', 90)"),
        3 => format!("ALTER TABLE {name} ADD INDEX by_v (v)"),
        4 => format!("RENAME TABLE {name} TO {renamed}"),
        5 => format!("OPTIMIZE TABLE {renamed}"),
        6 => format!("TRUNCATE TABLE {renamed}"),
        7 => format!("INSERT INTO {renamed} (id, v) SELECT seq, 'again' FROM shop.seq_1_to_300"),
        // Every other table stays, for a few lives: the server must not fill with tables.
        _ if life.is_multiple_of(2) && life > 7 => format!("DROP TABLE IF EXISTS {renamed}, shop.churned_{}", life - 7),
        _ if life.is_multiple_of(2) => format!("DROP TABLE {renamed}"),
        _ => format!("ALTER TABLE {renamed} DROP COLUMN w"),
    };
    // A worker that began in the middle of a life (after a reconnect) meets tables that are not there.
    match conn.query_drop(sql).await {
        Err(mysql_async::Error::Server(e)) if matches!(e.code, 1146 | 1051 | 1050) => Ok(()),
        other => other,
    }
}
