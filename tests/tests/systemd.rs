//! `promote` and `rollback` with `service = { unit = … }`: a real systemd, as PID 1 of a PID and mount namespace of its own, controls a
//! private MariaDB; the helper runs inside, with the real systemctl. For root.

use highwater_core::Failure;
use highwater_tests::{Host, Load, MariaDb, Output, PlanFile, S3, Scratch, Snapshot, binary, processes_of, run, wait_for};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// systemd with no units but ours, and a tmpfs of its own at /run.
struct Machine<'a> {
    scratch: Scratch,
    unshare: Child,
    init: u32,
    db: &'a MariaDb,
}

impl<'a> Machine<'a> {
    /// Boots one whose unit `database` serves `db`'s data directory, as Debian's `mariadb.service` does.
    fn boot(db: &'a MariaDb) -> Self {
        let scratch = Scratch::new("systemd");
        let units = scratch.join("units");
        fs::create_dir(&units).unwrap();
        for target in ["sysinit", "basic", "shutdown", "test"] {
            fs::write(units.join(format!("{target}.target")), "[Unit]\nDefaultDependencies=no\n").unwrap();
        }
        let unit = format!(
            "[Service]\nType=notify\nExecStart=/usr/sbin/mariadbd --defaults-file={}\nKillSignal=SIGTERM\nSendSIGKILL=no\nTimeoutStartSec=60\n",
            db.my_cnf().display()
        );
        fs::write(units.join("database.service"), unit).unwrap();
        let boot = format!(
            "mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/lock\n\
             export container=highwater SYSTEMD_UNIT_PATH={}\n\
             exec /usr/lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no",
            units.display()
        );
        let boot = scratch.script("boot", &boot);
        let log = fs::File::create(scratch.join("systemd.log")).unwrap();
        let mut unshare = scratch.command("unshare");
        unshare.args(["--kill-child", "--pid", "--fork", "--mount", "--mount-proc", "--uts", "--ipc", "--cgroup"]).arg(boot);
        let unshare = unshare.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let init = wait_for("PID 1", || {
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", unshare.id())).ok()?;
            children.split_whitespace().next()?.parse().ok()
        });
        let machine = Self { scratch, unshare, init, db };
        wait_for("systemd to answer", || {
            let booted = machine.systemctl(&["is-system-running"]);
            matches!(booted.as_str(), "running" | "degraded").then_some(())
        });
        assert_eq!(run(machine.inside("ps").args(["-p", "1", "-o", "comm="])).trim(), "systemd");
        machine
    }

    /// A command among its processes and mounts.
    fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.scratch.command("nsenter");
        command.args(["--target", &self.init.to_string(), "--pid", "--mount", "--"]).arg(program);
        command
    }

    /// What systemctl prints, whatever its exit code.
    fn systemctl(&self, args: &[&str]) -> String {
        let output = self.inside("systemctl").args(args).stderr(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The unit's main process, as the namespace counts.
    fn main_pid(&self) -> String {
        self.systemctl(&["show", "--property=MainPID", "--value", "database"])
    }

    #[track_caller]
    fn serves(&self, data: &Snapshot, what: &str) {
        assert_eq!(self.systemctl(&["is-active", "database"]), "active", "{what}");
        Snapshot::of(self.db).assert_same(data, what);
        assert_eq!(self.db.value::<u8>("SELECT @@read_only"), 0, "{what}");
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // The kernel ends every process of a PID namespace with its first.
        let _ = Command::new("kill").args(["-9", &self.init.to_string()]).status();
        let _ = self.unshare.wait();
    }
}

/// A primary under systemd that has gone on since the backup that is to replace it.
fn promotable<'a>(db: &'a MariaDb, s3: &S3) -> (Machine<'a>, Host, PlanFile, [Snapshot; 2]) {
    let mut host = Host::new(db, s3);
    Load::fill(db, 100);
    let full = host.full();
    let new = Snapshot::of(db);
    db.run("DELETE FROM shop.orders WHERE id % 3 = 0");
    let old = Snapshot::of(db);
    let plan = host.plan_of(&[&full]);
    host.drill(&plan).success();
    host.as_root(db);
    host.set("promote", "datadir", format!("{:?}", db.datadir())).set("promote", "service", "{ unit = \"database\" }");
    for line in ["rolling back", "could not be fenced", "the new server does not stop"] {
        host.allow(line);
    }
    db.down();
    let machine = Machine::boot(db);
    run(machine.inside("systemctl").args(["start", "database"]));
    machine.serves(&old, "under systemd");
    (machine, host, plan, [old, new])
}

fn promote(machine: &Machine<'_>, host: &Host, plan: &PlanFile, env: &[(&str, &str)]) -> Output {
    let args = host.promote_args(plan);
    host.run_by(machine.inside(binary("highwater-host")), &args.iter().map(String::as_str).collect::<Vec<_>>(), env)
}

#[test]
fn a_unit_of_systemd_is_stopped_started_and_asked_by_a_promotion_and_its_roll_back() {
    let (db, s3) = (MariaDb::start(), S3::start_on_disk());
    let (machine, host, plan, [old, new]) = promotable(&db, &s3);
    let by_hand = |args: &[&str], env: &[(&str, &str)]| host.run_by(machine.inside(binary("highwater-host")), args, env);

    // Killed once the new data is in place: resumed, by systemd's word that the unit is down.
    promote(&machine, &host, &plan, &[("HIGHWATER_CRASH_AT", "promote:swap:after")]).killed();
    assert_eq!(machine.systemctl(&["is-active", "database"]), "inactive");
    by_hand(&["promote", "--resume"], &[]).success();
    machine.serves(&new, "resumed");
    by_hand(&["rollback"], &[]).success();
    machine.serves(&old, "rolled back");

    // A check that fails on the new primary: the old one is started again.
    promote(&machine, &host, &plan, &[("HIGHWATER_FAIL_AT", "promote:check")]).failed(Failure::RolledBack);
    machine.serves(&old, "after a failed check");

    let before = machine.main_pid();
    promote(&machine, &host, &plan, &[]).success();
    machine.serves(&new, "promoted");
    assert_ne!(machine.main_pid(), before);

    // A unit that systemd does not know is refused before anything happens.
    let mut host = host;
    host.set("promote", "service", "{ unit = \"nonsense\" }");
    let before = machine.main_pid();
    promote(&machine, &host, &plan, &[]).failed(Failure::Precondition);
    assert_eq!(machine.main_pid(), before);
    drop(machine);
    assert_eq!(processes_of(Path::new(db.scratch().path())), []);
}

#[test]
fn a_unit_that_fails_to_start_on_the_new_data_gives_way_to_the_old() {
    let (db, s3) = (MariaDb::start(), S3::start_on_disk());
    let (machine, host, plan, [old, _]) = promotable(&db, &s3);
    // The unit refuses the restored data, as one whose server lacks a plug-in or a key.
    let refuse = format!("[Service]\nExecStartPre=/usr/bin/test -e {}/keep\n", db.datadir().display());
    let drop_in = machine.scratch.join("units/database.service.d");
    fs::create_dir(&drop_in).unwrap();
    fs::write(drop_in.join("refuse.conf"), refuse).unwrap();
    fs::write(db.datadir().join("keep"), "").unwrap();
    run(machine.inside("systemctl").arg("daemon-reload"));
    let failed = promote(&machine, &host, &plan, &[]);
    failed.failed(Failure::RolledBack);
    assert!(failed.error().contains("systemctl start database"), "{failed}");
    machine.serves(&old, "after a unit that failed");
}
