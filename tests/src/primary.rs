//! A primary on one machine that has gone on since the backup that is to replace it: what a promotion exchanges, and a roll-back
//! brings back.

use crate::{Host, Load, MariaDb, Output, PlanFile, Running, S3, Snapshot};
use std::path::PathBuf;

/// The server, its helper, a drilled plan of its backup, and the rows on both sides of a promotion.
#[derive(Debug)]
pub struct Primary {
    /// Its server.
    pub db: MariaDb,
    /// Its helper, which acts as the server's root.
    pub host: Host,
    /// Of the backup; its drill has passed.
    pub plan: PlanFile,
    /// What it serves now.
    pub old: Snapshot,
    /// What it served when it was backed up.
    pub new: Snapshot,
    _s3: S3,
}

impl Primary {
    /// On a new server.
    pub fn start() -> Self {
        Self::on(MariaDb::start())
    }

    /// On this server.
    pub fn on(db: MariaDb) -> Self {
        let s3 = S3::start_on_disk();
        let mut host = Host::new(&db, &s3);
        host.promotable(&db);
        // What a roll-back says on its way.
        for line in ["rolling back", "could not be fenced", "the new server does not stop"] {
            host.allow(line);
        }
        Load::fill(&db, 200);
        let full = host.full();
        let new = Snapshot::of(&db);
        db.run(
            "DELETE FROM shop.orders WHERE id % 3 = 0; UPDATE shop.customers SET note = 'later' WHERE id < 10;
             INSERT INTO shop.events (what) VALUES ('after the backup'); CREATE TABLE shop.later (id INT PRIMARY KEY)",
        );
        let old = Snapshot::of(&db);
        let plan = host.plan_of(&[&full]);
        host.drill(&plan).success();
        host.as_root(&db);
        Self { db, host, plan, old, new, _s3: s3 }
    }

    /// Starts the promotion, with more environment if need be.
    pub fn start_promotion(&self, env: &[(&str, &str)]) -> Running {
        let args = self.host.promote_args(&self.plan);
        self.host.start_with(&args.iter().map(String::as_str).collect::<Vec<_>>(), env)
    }

    /// Promotes.
    pub fn promote(&self) -> Output {
        self.start_promotion(&[]).finish()
    }

    /// Finishes or undoes a promotion that was cut off.
    pub fn resume(&self) -> Output {
        self.host.run(&["promote", "--resume"])
    }

    /// Brings the old data back.
    pub fn rollback(&self) -> Output {
        self.host.run(&["rollback"])
    }

    /// Panics unless its server is up with exactly these rows, and writable.
    #[track_caller]
    pub fn serves(&self, data: &Snapshot, what: &str) {
        assert!(self.db.running(), "{what}: the server is down");
        Snapshot::of(&self.db).assert_same(data, what);
        self.is_writable(what);
    }

    /// Panics if its server is read-only.
    #[track_caller]
    pub fn is_writable(&self, what: &str) {
        assert_eq!(self.db.value::<u8>("SELECT @@read_only"), 0, "{what}: the server was left read-only");
    }

    /// Its server's process.
    pub fn pid(&self) -> u32 {
        self.db.pid().expect("a running primary")
    }

    /// Directories beside the data directory with this in their names.
    pub fn siblings(&self, part: &str) -> Vec<PathBuf> {
        let beside = std::fs::read_dir(self.db.datadir().parent().expect("a directory")).expect("list beside the data");
        let paths = beside.flatten().map(|entry| entry.path());
        paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part))).collect()
    }
}
