//! The damage matrix: every kind of damage, done to every object that a restore or a promotion reads. Each is found, named
//! exactly, and never restored or promoted from.
//!
//! `make test` takes a seeded part, every kind with every type of object; HIGHWATER_DAMAGE=all takes the whole matrix. A failing
//! case is named; HIGHWATER_SEED replays it. The catalog's rows and certificates are in `cloud_damage.rs`.

use highwater_core::{Document, Failure, Sha256};
use highwater_tests::damage::{KINDS, Kind, Matrix, changed};
use highwater_tests::{Backup, Host, Load, MariaDb, Output, PlanFile, S3, Snapshot, block_on};
use jiff::SignedDuration;
use serde_json::Value;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A primary with two chains: an older full and incremental, and the full and two incrementals that are to be restored.
struct Scene {
    db: MariaDb,
    s3: S3,
    host: Host,
    other: Vec<Backup>,
    chain: Vec<Backup>,
    last: Snapshot,
}

impl Scene {
    fn new() -> Self {
        let (db, s3) = (MariaDb::start(), S3::start_on_disk());
        Load::fill(&db, 500);
        // Pages of noise: every backup is to have several frames.
        db.run("CREATE TABLE shop.noise (id INT PRIMARY KEY AUTO_INCREMENT, v LONGBLOB NOT NULL) ENGINE=InnoDB");
        let mut host = Host::new(&db, &s3);
        host.promotable(&db);
        let noise = || {
            db.run("INSERT INTO shop.noise (v) SELECT CONCAT(RANDOM_BYTES(1024), REPEAT(RANDOM_BYTES(1000), 1000)) FROM shop.seq_1_to_10")
        };
        let take = |increments: usize| {
            let mut backups = vec![host.full()];
            for _ in 0..increments {
                noise();
                let next = host.incremental(backups.last().unwrap());
                backups.push(next);
            }
            backups
        };
        let other = take(1);
        let chain = take(2);
        let last = Snapshot::of(&db);
        Self { db, s3, host, other, chain, last }
    }

    fn plan(&self) -> PlanFile {
        self.host.plan_of(&self.chain.iter().collect::<Vec<_>>())
    }

    fn documents_of<'a>(&self, backup: &'a Backup) -> [(&'static str, &'a String); 2] {
        [("inventory", &backup.manifest.inventory.object.key), ("manifest", &backup.object.key)]
    }

    /// For a step of the chain: another chain's backup of the same kind, and what came before it.
    fn others_of(&self, step: usize) -> (&Backup, &Backup) {
        match step {
            0 => (&self.other[0], &self.other[1]),
            1 => (&self.other[1], &self.chain[0]),
            _ => (&self.other[0], &self.chain[step - 1]),
        }
    }
}

/// Damages an object where it lies while `look` looks.
fn while_damaged<T>(s3: &S3, key: &str, bytes: Option<&[u8]>, look: impl FnOnce() -> T) -> T {
    let good = s3.get(key);
    s3.place(key, bytes);
    let seen = look();
    s3.place(key, Some(&good));
    seen
}

/// What an output says, held against what it has to say.
fn says(output: &Output, failure: Failure, parts: &[&str]) -> Result<(), String> {
    let error = output.error();
    let right = output.status.code() == Some(failure.exit_code().into()) && parts.iter().all(|part| error.contains(part));
    if right { Ok(()) } else { Err(format!("expected {failure} and {parts:?}: {output}")) }
}

/// A part of a data object that is damaged alone.
#[derive(Clone)]
struct Part {
    /// The type of object that it counts as.
    of: &'static str,
    name: String,
    bytes: Range<usize>,
    /// What a verdict calls it.
    called: String,
}

/// The whole object, its frame table, and its first, middle and last frame.
fn parts(backup: &Backup, bytes: &[u8]) -> Vec<Part> {
    let object = &backup.manifest.objects[0];
    let table = object.table_offset as usize;
    // See docs/FORMAT.md: 16 bytes of head, then entries of 44 bytes, in which the stored length comes second.
    let lens = bytes[table + 16..].chunks_exact(44).map(|entry| u32::from_le_bytes(entry[4..8].try_into().unwrap()) as usize);
    let frames: Vec<Range<usize>> = lens
        .scan(0, |at, len| {
            *at += len;
            Some(*at - len..*at)
        })
        .collect();
    assert!(frames.len() == object.frames as usize && frames.len() >= 3, "{} frames of {}", frames.len(), object.key);
    let mut parts = vec![
        Part { of: "data", name: "all".into(), bytes: 0..bytes.len(), called: object.key.clone() },
        Part {
            of: "frame table",
            name: "the frame table".into(),
            bytes: table..bytes.len(),
            called: format!("the frame table of {} is damaged", object.key),
        },
    ];
    for index in [0, frames.len() / 2, frames.len() - 1] {
        let called = format!("frame {index} of {} is damaged", object.key);
        parts.push(Part { of: "frame", name: format!("frame {index}"), bytes: frames[index].clone(), called });
    }
    parts
}

#[test]
fn no_damage_to_a_backup_goes_unnoticed_unnamed_or_into_a_restore() {
    let mut scene = Scene::new();
    let plan = scene.plan();
    // One directory for each step: it gets as far as the step before, and takes nothing of what is damaged.
    let into: Vec<PathBuf> = (0..3).map(|step| scene.host.path(&format!("into-{step}"))).collect();
    let mut matrix = Matrix::begin("backups");
    let seed = matrix.seed();
    for (step, backup) in scene.chain.iter().enumerate() {
        let (swap, older) = scene.others_of(step);
        let object = |b: &Backup| Rc::new(scene.s3.get(&b.manifest.objects[0].key));
        let (key, good, swapped, aged) = (&backup.manifest.objects[0].key, object(backup), object(swap), object(older));
        for part in parts(backup, &good) {
            for kind in KINDS {
                let (good, swapped, aged, part) = (good.clone(), swapped.clone(), aged.clone(), part.clone());
                let (scene, plan, into) = (&scene, &plan, &into[step]);
                matrix.case(part.of, kind, format!("{} of the data of backup {step}", part.name), move || {
                    let damage = changed(kind, &good, part.bytes, &swapped, &aged, seed);
                    let shorter = damage.as_ref().is_none_or(|bytes| bytes.len() < good.len());
                    // A shorter object ends before its frame table does; an exchanged one has another table.
                    let called = if shorter || part.of == "data" { key } else { &part.called };
                    while_damaged(&scene.s3, key, damage.as_deref(), || {
                        if shorter && part.of == "data" {
                            audited(scene, key, step)?;
                        }
                        refused_by_restore(scene, plan, into, step, called)
                    })
                });
            }
        }
        for (what, key) in scene.documents_of(backup) {
            let other = |b: &Backup| scene.s3.get(scene.documents_of(b).into_iter().find(|(w, _)| *w == what).unwrap().1);
            for kind in KINDS {
                let (good, swapped, aged) = (scene.s3.get(key), other(swap), other(older));
                let (scene, plan, into) = (&scene, &plan, &into[step]);
                matrix.case(what, kind, format!("the {what} of backup {step}"), move || {
                    let damage = changed(kind, &good, 0..good.len(), &swapped, &aged, seed);
                    while_damaged(&scene.s3, key, damage.as_deref(), || refused_by_restore(scene, plan, into, step, key))
                });
            }
        }
    }
    matrix.run(160);
    // What was refused left nothing behind: each directory ends at exactly the restore point.
    for (step, into) in into.iter().enumerate() {
        scene.host.restore(&plan, into).success();
        scene.last.assert_same(&Snapshot::of(&MariaDb::open(&into.join("data"))), &format!("after the damage to backup {step}"));
    }

    // Nor is anything promoted from it, or called good by a drill.
    scene.host.drill(&plan).success();
    let served = Snapshot::of(&scene.db);
    let promote = scene.host.promote_args(&plan);
    scene.host.as_root(&scene.db);
    // The approval rests on the first drill's report: later drills are of a plan of their own.
    let (scene, plan, promote, pid) = (&scene, &scene.plan(), &promote, scene.db.pid());
    let mut matrix = Matrix::begin("what is promoted and drilled");
    for (step, backup) in scene.chain.iter().enumerate() {
        let data = ("data", &backup.manifest.objects[0].key);
        for (what, key) in scene.documents_of(backup).into_iter().chain([data]) {
            for kind in [Kind::Delete, Kind::FlipBit] {
                matrix.case(what, kind, format!("the {what} of backup {step}"), move || {
                    let good = scene.s3.get(key);
                    let damage = changed(kind, &good, 0..good.len(), &[0], &[0], seed);
                    while_damaged(&scene.s3, key, damage.as_deref(), || {
                        says(&scene.host.run(&words(promote)), Failure::Damaged, &[key])?;
                        says(&scene.host.drill(plan), Failure::Damaged, &[key])?;
                        if scene.db.pid() == pid { Ok(()) } else { Err("the primary was restarted".into()) }
                    })
                });
            }
        }
    }
    matrix.run(18);
    Snapshot::of(&scene.db).assert_same(&served, "the primary");
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// A restore that meets damage in `step`: it says what is damaged, and has not got past the step before.
fn refused_by_restore(scene: &Scene, plan: &PlanFile, into: &Path, step: usize, called: &str) -> Result<(), String> {
    says(&scene.host.restore(plan, into), Failure::Damaged, &[called])?;
    let reached = fs::read_to_string(into.join("data/xtrabackup_checkpoints")).ok();
    let before = step.checked_sub(1).map(|before| format!("to_lsn = {}\n", scene.chain[before].manifest.to_lsn));
    let right = reached.as_ref().is_none_or(|text| before.is_some_and(|before| text.contains(&before)));
    if right { Ok(()) } else { Err(format!("the directory is at {reached:?}")) }
}

/// The audit names a shorter object with every restore point that rests on it.
fn audited(scene: &Scene, key: &str, step: usize) -> Result<(), String> {
    let output = scene.host.cli(&["--json", "audit", "--bucket", "backups", "--cluster", "shop"]);
    let audit: Value = serde_json::from_str(&output.stdout).map_err(|e| format!("{e}: {output}"))?;
    let found = audit["findings"].as_array().and_then(|all| all.iter().find(|f| f["key"] == key)).unwrap_or(&Value::Null);
    let lost: Vec<&str> = found["lost_restore_points"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let expected: Vec<String> = scene.chain[step..].iter().map(|b| b.manifest.backup_id.to_string()).collect();
    let named = matches!(found["name"].as_str(), Some("ObjectMissing" | "ObjectSize"));
    if named && lost == expected { Ok(()) } else { Err(format!("the audit says {audit}")) }
}

#[test]
fn on_a_store_with_versions_a_lost_or_exchanged_version_is_named_and_one_put_over_it_changes_nothing() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    let full = host.full();
    let last = host.incremental(&full);
    let (host, s3, plan, into) = (&host, &s3, &host.plan_of(&[&full, &last]), &host.path("into"));
    let mut objects = Vec::new();
    for (step, backup) in [&full, &last].into_iter().enumerate() {
        let m = &backup.manifest;
        let inventory = &m.inventory.object;
        objects.push(("data", step, &m.objects[0].key, &m.objects[0].version_id));
        objects.push(("inventory", step, &inventory.key, &inventory.version_id));
        objects.push(("manifest", step, &backup.object.key, &backup.object.version_id));
    }
    let (mut matrix, mut put_over) = (Matrix::begin("versions"), Vec::new());
    for &(what, step, key, version) in &objects {
        // Something newer at the key: who names the version does not see it, and a plan that names the newer one is refused.
        s3.overwrite(key, b"something newer");
        let newer = block_on(s3.bucket().head(key, None)).unwrap().version_id;
        assert_ne!(&newer, version);
        put_over.push((key, newer.clone().unwrap()));
        let mut exchanged = plan.plan.clone();
        let named = match what {
            "data" => &mut exchanged.steps[step].objects[0].version_id,
            "inventory" => &mut exchanged.steps[step].inventory.object.version_id,
            _ => &mut exchanged.steps[step].manifest.version_id,
        };
        *named = newer;
        let exchanged = host.write_plan(exchanged);
        matrix.case(&format!("{what} {step}"), Kind::Older, format!("the version of the {what} of backup {step}"), move || {
            let _ = fs::remove_dir_all(into);
            says(&host.restore(&exchanged, into), Failure::Damaged, &[key])
        });
    }
    matrix.run(6);
    let _ = fs::remove_dir_all(into);
    host.restore(plan, into).success();
    fs::remove_dir_all(into).unwrap();
    for (key, newer) in put_over {
        block_on(s3.bucket().delete_version(key, &newer)).unwrap();
    }
    // What is read last is lost first, so that each is the first to be missed.
    let mut matrix = Matrix::begin("lost versions");
    let order = [("data", 1), ("inventory", 1), ("data", 0), ("inventory", 0), ("manifest", 1), ("manifest", 0)];
    for (what, step) in order {
        let &(.., key, version) = objects.iter().find(|object| (object.0, object.1) == (what, step)).unwrap();
        matrix.case(&format!("{what} {step}"), Kind::Delete, format!("the version of the {what} of backup {step}"), move || {
            block_on(s3.bucket().delete_version(key, version.as_deref().unwrap())).map_err(|e| e.to_string())?;
            // A directory that got past the object would not look at it again.
            let _ = fs::remove_dir_all(into);
            says(&host.restore(plan, into), Failure::Damaged, &[key])?;
            // A manifest that is gone is missed by a plan, or a catalog: from the bucket alone it never was.
            let audit = host.cli(&["--json", "audit", "--bucket", "backups", "--cluster", "shop"]);
            let named = what == "manifest" || audit.status.code() == Some(14) && audit.stdout.contains(key.as_str());
            if named { Ok(()) } else { Err(audit.to_string()) }
        });
    }
    matrix.run(6);
}

#[test]
fn no_damage_to_what_orders_a_backup_a_restore_or_a_promotion_is_obeyed() {
    let (db, s3) = (MariaDb::start(), S3::start_on_disk());
    let mut host = Host::new(&db, &s3);
    host.promotable(&db);
    Load::fill(&db, 50);
    let (older, full) = (host.full(), host.full());
    let [older_plan, plan] = [&older, &full].map(|b| host.plan_of(&[b]));
    for plan in [&older_plan, &plan] {
        host.drill(plan).success();
    }
    let read = |path: &Path| fs::read(path).unwrap();
    // What was drilled before, for the same plan: another report all the same.
    let older_report = read(&host.report_of(&plan));
    host.drill(&plan).success();
    let request = host.request(Some(&full));
    let mut expired = host.approval(&plan);
    (expired.approved_at, expired.expires_at) =
        (expired.approved_at - SignedDuration::from_hours(3), expired.expires_at - SignedDuration::from_hours(2));
    // Each as it should be, another's, and an older one.
    let request_bytes = request.to_bytes();
    let documents: [(&str, [Vec<u8>; 3]); 4] = [
        ("request", [request_bytes.clone(), host.request(Some(&full)).to_bytes(), host.request(Some(&older)).to_bytes()]),
        ("plan", [read(&plan.path), read(&older_plan.path), host.plan_of(&[&full]).plan.to_bytes()]),
        ("approval", [host.approval(&plan).to_bytes(), host.approval(&older_plan).to_bytes(), expired.to_bytes()]),
        ("report", [read(&host.report_of(&plan)), read(&host.report_of(&older_plan)), older_report]),
    ];
    for (what, [good, ..]) in &documents {
        s3.put(&format!("orders/{what}.json"), good);
    }
    host.as_root(&db);
    let (served, pid) = (Snapshot::of(&db), db.pid());
    let at = |what: &str| format!("s3://backups/orders/{what}.json");
    let digest = |what: &str| Sha256::of(&documents.iter().find(|(w, _)| *w == what).unwrap().1[0]).to_string();
    let into = host.path("into");
    let orders = [
        ("request", vec!["backup".to_owned(), "--request".into(), at("request"), "--sha256".into(), digest("request")]),
        (
            "plan",
            vec!["restore".to_owned(), "--plan".into(), at("plan"), "--sha256".into(), digest("plan"), "--into".into(), text(&into).into()],
        ),
    ];
    let by_digest: Vec<String> = ["plan", "approval", "report"]
        .iter()
        .flat_map(|what| {
            let pin = if *what == "plan" { "--sha256".to_owned() } else { format!("--{what}-sha256") };
            [format!("--{what}"), at(what), pin, digest(what)]
        })
        .collect();
    let by_digest = [vec!["promote".to_owned()], by_digest].concat();
    let files = host.promote_args(&plan);
    let approval_file = PathBuf::from(&files[4]);

    let (host, s3, db, request, into) = (&host, &s3, &db, &request, &into);
    let untouched = move || {
        let parent = db.datadir().parent().unwrap();
        let beside: Vec<_> =
            fs::read_dir(parent).unwrap().flatten().map(|e| e.file_name()).filter(|n| n.to_string_lossy().starts_with("data.")).collect();
        match (db.pid() == pid, host.keys_of(request), into.exists(), beside) {
            (true, keys, false, beside) if keys.is_empty() && beside.is_empty() => Ok(()),
            seen => Err(format!("something was done: {seen:?}")),
        }
    };
    let mut matrix = Matrix::begin("orders");
    let seed = matrix.seed();
    for (what, [good, swap, older]) in &documents {
        let damage = move |kind| changed(kind, good, 0..good.len(), swap, older, seed);
        let ordered: Vec<(&str, &Vec<String>)> = orders
            .iter()
            .filter(|(w, _)| w == what)
            .map(|(_, args)| ("", args))
            .chain((*what != "request").then_some((", promoted", &by_digest)))
            .collect();
        for kind in KINDS {
            for &(doing, args) in &ordered {
                let key = format!("orders/{what}.json");
                let failure = match (kind, *what) {
                    (Kind::Delete, _) => Failure::Damaged,
                    (_, "approval") => Failure::Approval,
                    _ => Failure::Document,
                };
                let reason = if kind == Kind::Delete { "not found" } else { "has SHA-256" };
                matrix.case(&format!("{what}{doing}"), kind, format!("the {what} by its digest{doing}"), move || {
                    while_damaged(s3, &key, damage(kind).as_deref(), || says(&host.run(&words(args)), failure, &[&key, reason]))?;
                    untouched()
                });
            }
            // Given as files, without a digest: the approval binds the plan and the report. Who may write the approval's file
            // may write other names into it, so its bits are left alone.
            let file = match *what {
                "request" => continue,
                "plan" => &plan.path,
                "report" => &host.report_of(&plan).clone(),
                _ if kind == Kind::FlipBit => continue,
                _ => &approval_file,
            };
            let (file, files) = (file.clone(), &files);
            matrix.case(&format!("{what} file"), kind, format!("the {what}, a file"), move || {
                match damage(kind) {
                    Some(bytes) => fs::write(&file, bytes).unwrap(),
                    None => fs::remove_file(&file).unwrap(),
                }
                let output = host.run(&words(files));
                fs::write(&file, good).unwrap();
                // Unreadable it is named by its place, otherwise by what binds it.
                says(&output, Failure::Document, &[text(&file)])
                    .or_else(|_| says(&output, Failure::Document, &["this host belongs to"]))
                    .or_else(|_| says(&output, Failure::Approval, &[text(&file)]))
                    .or_else(|_| says(&output, Failure::Approval, &["the approval does not allow this promotion", what]))
                    .or_else(|e| {
                        if kind == Kind::Older && *what == "approval" {
                            says(&output, Failure::Approval, &["it expired at"])
                        } else {
                            Err(e)
                        }
                    })?;
                untouched()
            });
        }
    }
    matrix.run(63);
    Snapshot::of(db).assert_same(&served, "the primary");
    // Undamaged they are obeyed.
    for (_, args) in &orders {
        host.run(&words(args)).success();
    }
    host.run(&words(&by_digest)).success();
}
