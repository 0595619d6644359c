//! The helper under SSM and the instance of a drill are killed at moments that a seed decides, on the deployed stack: the next
//! schedule succeeds by itself, no instance stays, and what is served is what was written.

use highwater_tests::{Cloud, MariaDb, Snapshot, Torture, config, processes_of, wait_for, wait_for_within};
use serde_json::{Value, json};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A deployment whose host serves a small shop, of which there is a restore point; and how long a backup took.
fn backed_up() -> (Cloud, MariaDb, Duration) {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    db.run("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT, at TIMESTAMP(6) DEFAULT NOW(6))");
    db.run("INSERT INTO shop.orders () VALUES (), (), ()");
    cloud.host("orders", &db);
    turn(&cloud, &db);
    let started = Instant::now();
    turn(&cloud, &db);
    let took = started.elapsed();
    (cloud, db, took)
}

/// Waits until the `n`th backup has ended, well or not.
fn ended(cloud: &Cloud, n: usize) -> Value {
    wait_for_within(Duration::from_secs(90), &format!("the end of backup {n}"), || {
        cloud.backups().into_iter().nth(n - 1).filter(|backup| backup["open"].is_null())
    })
}

/// One turn of the schedule, to its commit.
fn turn(cloud: &Cloud, db: &MariaDb) -> Value {
    db.run("INSERT INTO shop.orders () VALUES ()");
    let n = cloud.backups().len() + 1;
    cloud.fire("backup-orders");
    let backup = ended(cloud, n);
    assert_eq!(backup["state"], "committed", "{backup}");
    backup
}

fn kill(pid: u32) -> bool {
    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success()
}

#[test]
fn a_helper_killed_under_ssm_fails_its_backup_or_commits_it_and_the_next_turn_is_committed() {
    let ((cloud, db, took), mut torture) = (backed_up(), Torture::begin("helper under SSM"));
    while torture.goes_on(1, 15) {
        db.run("INSERT INTO shop.orders () VALUES ()");
        let (rows, n, moment) = (Snapshot::of(&db), cloud.backups().len() + 1, torture.moment(took));
        cloud.fire("backup-orders");
        let helper = || {
            processes_of(cloud.scratch().path()).into_iter().find(|(_, command)| command.contains(" backup --request ")).map(|(pid, _)| pid)
        };
        wait_for("the helper", helper);
        sleep(moment);
        let killed = helper().is_some_and(kill);
        let backup = ended(&cloud, n);
        assert!(["committed", "failed"].contains(&backup["state"].as_str().unwrap()), "{backup}");
        assert!(backup["state"] == "committed" || killed, "{backup}");
        if backup["state"] == "failed" {
            let told = cloud.notifications();
            assert!(told.iter().any(|message| message.contains(backup["backup_id"].as_str().unwrap())), "{told:?}");
        }
        assert!(cloud.item("orders", "lease").unwrap()["holder"].is_null());
        rows.assert_same(&Snapshot::of(&db), "the server");
        let next = turn(&cloud, &db);
        assert_eq!(next["backup_id"].as_str().unwrap().contains("-full-"), backup["state"] == "failed", "a failure owes a full: {next}");
        cloud.assert_sound("orders");
        if killed {
            torture.survived(&format!("{moment:?} after its start: {}", backup["state"]));
        }
    }
    torture.end();
}

/// Waits for the end of a drill: its execution's, its record's and its instance's.
fn drilled(cloud: &Cloud, execution: &str) -> Value {
    cloud.wait_execution(execution);
    let record = wait_for("the drill's record", || {
        let drills = cloud.items_under("orders", "drill#");
        drills.into_iter().find(|drill| drill["execution"] == json!(execution) && drill["open"].is_null())
    });
    wait_for("the instance's end", || cloud.drill_instances().is_empty().then_some(()));
    record
}

#[test]
fn a_drills_instance_killed_at_any_moment_fails_its_drill_and_leaves_nothing_and_the_next_drill_passes() {
    let ((cloud, _db, _), mut torture) = (backed_up(), Torture::begin("drill's instance"));
    let started = Instant::now();
    assert_eq!(drilled(&cloud, &cloud.start_execution("drill", &json!({"cluster": "orders"})))["state"], "passed");
    let took = started.elapsed();
    while torture.goes_on(1, 8) {
        let (moment, crash) = (torture.moment(took), torture.pick(2) == 0);
        let execution = cloud.start_execution("drill", &json!({"cluster": "orders"}));
        let instance = wait_for("the instance", || {
            cloud.drill_instances().pop().filter(|i| i["running"].as_u64() > Some(0)).map(|i| i["instance-id"].as_str().unwrap().to_owned())
        });
        sleep(moment);
        // The machine is lost, and EC2 says so; or it hangs: everything on it is dead, and EC2 shows a running instance.
        let alive = !cloud.drill_instances().is_empty();
        if alive && crash {
            cloud.control("POST", &format!("hosts/{instance}/shutdown"), &json!({"minutes": 0}));
        } else if alive {
            let mark = format!("LOCAL_CLOUD_INSTANCE={instance}");
            for pid in marked(&mark) {
                kill(pid);
            }
            // The next heartbeat is missed after nine seconds now.
            cloud.settings(json!({"sfn_timeout_scale": 0.01}));
        }
        let record = drilled(&cloud, &execution);
        cloud.settings(json!({"sfn_timeout_scale": 1}));
        if record["state"] != "passed" {
            let prefix = format!("v1/orders/drills/{}/", record["drill_id"].as_str().unwrap());
            assert!(!cloud.keys(&prefix).iter().any(|key| key.contains("certificate")), "{record}");
        }
        let next = drilled(&cloud, &cloud.start_execution("drill", &json!({"cluster": "orders"})));
        assert_eq!(next["state"], "passed", "{next}");
        cloud.assert_sound("orders");
        if alive && record["state"] != "passed" {
            torture.survived(&format!("{} after {moment:?}", if crash { "lost" } else { "hung" }));
        }
    }
    torture.end();
}

/// Processes whose environment has this in it.
fn marked(mark: &str) -> Vec<u32> {
    let of = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let environ = std::fs::read(entry.path().join("environ")).ok()?;
        environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()).then_some(pid)
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}
