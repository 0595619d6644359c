//! What somebody who may write to the bucket, to a document or to an event can make the real binaries do: say no, in bounded memory.

use highwater_core::inventory::{InventoryV1, StreamFile};
use highwater_core::manifest::{DataObject, ManifestV1, ObjectRef};
use highwater_core::{BackupId, BackupKind, Document, Failure, Sha256};
use highwater_host::stream::xbstream::Writer;
use highwater_tests::{Backup, Function, Host, MariaDb, Output, PlanFile, S3};
use serde_json::{Value, json};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the helper and the tool may hold, as prlimit takes it, bytes: a restore of an honest backup needs less, and every lie below claims more.
const DATA: &str = "--data=1073741824";
const GIB: u64 = 1 << 30;

/// One frame of an object: its stored bytes, and how long its table says that it is.
type Frame = (Vec<u8>, u32);

/// A zstd frame of blocks that repeat one byte 131,072 times: 32,768 bytes for each byte stored. `claimed` is in its header.
fn bomb(claimed: u64, bytes: u64) -> Vec<u8> {
    const BLOCK: u32 = 1 << 17;
    let mut frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0], claimed.to_le_bytes().as_slice()].concat();
    let blocks = bytes.div_ceil(u64::from(BLOCK));
    for block in 1..=blocks {
        let head = u32::from(block == blocks) | 1 << 1 | BLOCK << 3;
        frame.extend_from_slice(&head.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// A zstd frame that holds `raw` uncompressed.
fn framed(raw: &[u8]) -> Frame {
    let mut frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0], (raw.len() as u64).to_le_bytes().as_slice()].concat();
    let blocks = raw.chunks(1 << 17).count();
    for (index, block) in raw.chunks(1 << 17).enumerate() {
        let head = u32::from(index + 1 == blocks) | (block.len() as u32) << 3;
        frame.extend_from_slice(&head.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    (frame, raw.len() as u32)
}

/// A stream in one frame.
fn stream(write: impl FnOnce(&mut Writer<Vec<u8>>) -> std::io::Result<()>) -> Vec<Frame> {
    let mut writer = Writer::new(Vec::new());
    write(&mut writer).unwrap();
    vec![framed(&writer.into_inner())]
}

/// An object as `docs/FORMAT.md` has it, and what a manifest says of it.
fn object(key: String, frames: &[Frame]) -> (Vec<u8>, DataObject) {
    let mut table = [b"HWFRAMES".as_slice(), &(frames.len() as u32).to_le_bytes(), &[0; 4]].concat();
    for (stored, raw_len) in frames {
        table.extend_from_slice(&raw_len.to_le_bytes());
        table.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        table.extend_from_slice(&[0; 4]);
        table.extend_from_slice(Sha256::of(stored).as_bytes());
    }
    let mut bytes: Vec<u8> = frames.iter().flat_map(|(stored, _)| stored.iter().copied()).collect();
    bytes.extend_from_slice(&0x184D_2A57u32.to_le_bytes());
    bytes.extend_from_slice(&(table.len() as u32).to_le_bytes());
    let table_offset = bytes.len() as u64;
    bytes.extend_from_slice(&table);
    let described = DataObject {
        key,
        version_id: None,
        size: bytes.len() as u64,
        raw_bytes: frames.iter().map(|(_, raw)| u64::from(*raw)).sum::<u64>().max(1),
        crc64nvme: "AAAAAAAAAAA=".into(),
        frames: frames.len() as u32,
        table_offset,
        table_sha256: Sha256::of(&table),
    };
    (bytes, described)
}

/// A host with an honest full, and room for lies beside it.
struct Scene {
    s3: S3,
    host: Host,
    full: Backup,
    planted: Cell<u16>,
}

impl Scene {
    fn new() -> Self {
        let (db, s3) = (MariaDb::start(), S3::start());
        db.run("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY); INSERT INTO shop.orders VALUES (1)");
        let host = Host::new(&db, &s3);
        let full = host.full();
        Self { s3, host, full, planted: Cell::new(0xa000) }
    }

    /// Publishes a full like the honest one, but of these frames and, after `lie`, of this manifest; plans it.
    fn plant(&self, frames: &[Frame], lie: impl FnOnce(&mut ManifestV1)) -> PlanFile {
        self.plant_with(frames, &self.s3.get(&self.full.manifest.inventory.object.key), lie)
    }

    fn plant_with(&self, frames: &[Frame], inventory: &[u8], lie: impl FnOnce(&mut ManifestV1)) -> PlanFile {
        let mut m = self.full.manifest.clone();
        self.planted.set(self.planted.get() + 1);
        m.backup_id = BackupId::new(m.started_at, BackupKind::Full, self.planted.get());
        let prefix = m.key().replace("manifest.json", "");
        let (bytes, described) = object(format!("{prefix}data-000"), frames);
        self.s3.put(&described.key, &bytes);
        (m.stored_bytes, m.raw_bytes) = (described.size, described.raw_bytes);
        m.objects = vec![described];
        let key = format!("{prefix}inventory.json.zst");
        self.s3.put(&key, inventory);
        m.inventory.object = ObjectRef { key, version_id: None, size: inventory.len() as u64, sha256: Sha256::of(inventory) };
        lie(&mut m);
        let bytes = m.to_bytes();
        self.s3.put(&m.key(), &bytes);
        let object = ObjectRef { key: m.key(), version_id: None, size: bytes.len() as u64, sha256: Sha256::of(&bytes) };
        self.host.plan_of(&[&Backup { manifest: m, object, request: PathBuf::new() }])
    }

    /// Restores with bounded memory into `into/restore`.
    fn restore(&self, plan: &PlanFile, into: &Path) -> Output {
        let into = into.join("restore");
        let began = Instant::now();
        let output = self.host.run_within(&[DATA], &["restore", "--plan", plan.path.to_str().unwrap(), "--into", into.to_str().unwrap()]);
        assert!(began.elapsed() < Duration::from_secs(60), "{output}");
        output
    }
}

/// Every path below a directory but those below `except`, with its size.
fn tree(of: &Path, except: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(of).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        if entry.path() == except {
            continue;
        }
        found.push((entry.path(), meta.len()));
        if meta.is_dir() {
            found.extend(tree(&entry.path(), except));
        }
    }
    found.sort();
    found
}

#[test]
fn no_path_in_a_stream_leaves_the_directory_it_is_restored_to() {
    let scene = Scene::new();
    let pen = scene.host.path("pen");
    std::fs::create_dir_all(pen.join("victims/dir")).unwrap();
    std::fs::write(pen.join("victims/file"), "whole").unwrap();
    let absolute = pen.join("victims/planted").to_str().unwrap().to_owned();
    let up = |levels: usize| "../".repeat(levels);
    // From data/ it is two levels up to the pen.
    let mut paths =
        vec![absolute.clone(), format!("{}victims/planted", up(2)), format!("db/../{}victims/planted", up(2)), "..".into(), ".".into()];
    paths.extend(["", "/", "db/", "db//t", "./t", "db/.", "db/..", "t\0", "\0", "/dev/null", "/proc/self/mem"].map(str::to_owned));
    paths.extend(["a".repeat(256), "a".repeat(512), "a/".repeat(255), "\u{202e}\n\t".into()]);
    let mut streams: Vec<(String, Vec<Frame>)> = Vec::new();
    for path in &paths {
        streams.push((format!("write {path:?}"), stream(|w| w.payload(path, 0, b"planted").and_then(|()| w.end(path)))));
    }
    for path in [absolute.clone(), format!("{}victims/file", up(2)), format!("{}victims/dir", up(2))] {
        streams.push((format!("remove {path:?}"), stream(|w| w.remove(&path))));
        streams.push((format!("rename from {path:?}"), stream(|w| w.rename(&path, "taken"))));
        streams.push((format!("rename to {path:?}"), stream(|w| w.payload("t", 0, b"planted").and_then(|()| w.rename("t", &path)))));
    }
    let before = tree(&pen, &pen.join("restore"));
    for (what, frames) in &streams {
        let output = scene.restore(&scene.plant(frames, |_| {}), &pen);
        let code = output.status.code();
        let expected = [Failure::Damaged, Failure::UnsafeDirectory, Failure::Resources].map(|f| Some(i32::from(f.exit_code())));
        assert!(expected.contains(&code), "{what}: {output}");
        assert!(!output.error().is_empty(), "{what}: {output}");
        assert_eq!(tree(&pen, &pen.join("restore")), before, "{what}");
        let _ = std::fs::remove_dir_all(pen.join("restore"));
    }
    // A link that lies where the data goes is not followed.
    std::os::unix::fs::symlink(pen.join("victims/dir"), pen.join("restore")).unwrap();
    let honest = scene.host.plan_of(&[&scene.full]);
    scene.restore(&honest, &pen).failed(Failure::UnsafeDirectory);
    assert_eq!(tree(&pen, &pen.join("restore")), before);
    println!("{} hostile streams", streams.len());
}

#[test]
fn what_a_backup_says_of_its_size_is_not_believed_and_costs_no_memory() {
    let scene = Scene::new();
    let small = || stream(|w| w.payload("t", 0, b"x").and_then(|()| w.end("t")));
    let far = |offset: u64| stream(|w| w.payload("t", offset, b"x").and_then(|()| w.end("t")));
    let hole =
        |file: &str| stream(|w| w.sparse(file, 0, &[(u32::MAX, 0), (u32::MAX, 0), (u32::MAX, 0), (0, 1)], b"x").and_then(|()| w.end(file)));
    // An inventory that agrees, so that the file itself is what is read next.
    let files = vec![StreamFile { path: "xtrabackup_checkpoints".into(), bytes: 3 * u64::from(u32::MAX) + 1 }];
    let listing = InventoryV1 {
        format: InventoryV1::FORMAT.into(),
        backup_id: scene.full.manifest.backup_id.clone(),
        files,
        schemas: vec![],
        tables: vec![],
    };
    let listing = framed(&listing.to_bytes()).0;
    let lies: Vec<(&str, Failure, PlanFile)> = vec![
        ("a frame of 8 GiB said to have 1,000 bytes", Failure::Damaged, scene.plant(&[(bomb(8 * GIB, 8 * GIB), 1000)], |_| {})),
        ("a frame said in its header to have an exabyte", Failure::Damaged, scene.plant(&[(bomb(1 << 60, 1 << 20), 1000)], |_| {})),
        (
            "a table that says 4 GiB of a frame",
            Failure::Damaged,
            scene.plant(&[(bomb(8 * GIB, 8 * GIB), u32::MAX)], |m| (m.objects[0].raw_bytes, m.raw_bytes) = (1000, 1000)),
        ),
        ("a frame that holds nothing but zeroes", Failure::Damaged, scene.plant(&[(bomb(1 << 25, 1 << 25), 1 << 25)], |_| {})),
        ("a manifest that counts four billion frames", Failure::Damaged, scene.plant(&small(), |m| m.objects[0].frames = u32::MAX)),
        (
            "a manifest whose object is an exabyte",
            Failure::Damaged,
            scene.plant(&small(), |m| {
                let more = (1 << 60) - m.objects[0].size;
                (m.objects[0].size, m.objects[0].table_offset, m.stored_bytes) = (1 << 60, m.objects[0].table_offset + more, 1 << 60);
            }),
        ),
        (
            "a manifest that restores to an exabyte",
            Failure::Resources,
            scene.plant(&small(), |m| (m.objects[0].raw_bytes, m.raw_bytes) = (1 << 60, 1 << 60)),
        ),
        (
            "a manifest that restores to more than there are numbers",
            Failure::Resources,
            scene.plant(&small(), |m| (m.objects[0].raw_bytes, m.raw_bytes) = (u64::MAX, u64::MAX)),
        ),
        ("an inventory of 8 GiB", Failure::Damaged, scene.plant_with(&small(), &bomb(8 * GIB, 8 * GIB), |_| {})),
        ("an inventory of nested lists", Failure::Damaged, scene.plant_with(&small(), &framed("[".repeat(1 << 20).as_bytes()).0, |_| {})),
        ("an inventory said to have an exabyte", Failure::Damaged, scene.plant(&small(), |m| m.inventory.object.size = 1 << 60)),
        ("a page at the end of all files", Failure::Damaged, scene.plant(&far(u64::MAX - 1), |_| {})),
        ("a page behind the largest file", Failure::Damaged, scene.plant(&far(i64::MAX as u64 - 1), |_| {})),
        (
            "a checkpoints file with a hole of 12 GiB",
            Failure::Damaged,
            scene.plant_with(&hole("xtrabackup_checkpoints"), &listing, |m| (m.inventory.files, m.inventory.tables) = (1, 0)),
        ),
    ];
    for (index, (what, failure, plan)) in lies.iter().enumerate() {
        let pen = scene.host.path(&format!("lie-{index}"));
        std::fs::create_dir(&pen).unwrap();
        let output = scene.restore(plan, &pen);
        assert_eq!(output.status.code(), Some(i32::from(failure.exit_code())), "{what}: {output}");
        assert!(!output.error().is_empty(), "{what}: {output}");
        assert!(!what.contains("checkpoints") || output.error().contains("more than"), "{what}: {output}");
    }
    // The same bounds do not disturb an honest restore.
    let pen = scene.host.path("honest");
    std::fs::create_dir(&pen).unwrap();
    scene.restore(&scene.host.plan_of(&[&scene.full]), &pen).success();
    println!("{} lies", lies.len());
}

#[test]
fn documents_without_an_end_or_a_bottom_are_refused_in_bounded_memory() {
    let scene = Scene::new();
    let deep = scene.host.path("deep.json");
    let format = &scene.host.plan_of(&[&scene.full]).plan.format;
    std::fs::write(&deep, format!("{{\"format\":\"{format}\",\"steps\":{}", "[".repeat(8 << 20))).unwrap();
    let wide = scene.host.path("wide.json");
    std::fs::write(&wide, format!("{{\"format\":\"{format}\",\"steps\":[{}0]}}", "0,".repeat(12 << 20))).unwrap();
    let into = scene.host.path("into");
    for path in [&deep, &wide, Path::new("/dev/zero"), Path::new("/dev/full")] {
        let path = path.to_str().unwrap();
        let output = scene.host.run_within(&[DATA], &["restore", "--plan", path, "--into", into.to_str().unwrap()]);
        assert!(!output.failed(Failure::Document).error().is_empty(), "{path}: {output}");
        let output = scene.host.run_within(&[DATA], &["backup", "--request", path]);
        assert!(!output.failed(Failure::Document).error().is_empty(), "{path}: {output}");
    }
    assert!(!into.exists());
}

#[test]
fn hostile_names_and_values_are_refused_before_anything_is_done() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let long = "a".repeat(1 << 16);
    let names = [
        "",
        "-rf",
        "../billing",
        "orders/../billing",
        "orders;reboot",
        "$(reboot)",
        "`reboot`",
        "orders\nbilling",
        "ORDERS",
        "órders",
        "orders ",
        "a*",
        &long,
    ];
    for name in names {
        let mut host = Host::new(&db, &s3);
        host.set("", "cluster", format!("{name:?}"));
        let output = host.run(&["doctor", "--bucket", "backups"]);
        output.failed(Failure::Config);
        // As an argument: clap's own refusal, or ours.
        let output = host.cli(&["list", "--bucket", "backups", &format!("--cluster={name}")]);
        assert!(!output.status.success() && !output.log.is_empty(), "{name:?}: {output}");
    }
    let values = [
        ("backup", "compression_level", "99999999999999999999"),
        ("backup", "uploads", "-1"),
        ("drill", "statement_timeout_s", "1e400"),
        ("", "state_dir", "[]"),
    ];
    for (table, key, value) in values {
        let mut host = Host::new(&db, &s3);
        host.set(table, key, value);
        let output = host.run(&["doctor", "--bucket", "backups"]);
        assert!(matches!(output.status.code(), Some(10 | 12)), "{table}.{key} = {value}: {output}");
    }
    assert!(s3.keys("").is_empty(), "nothing was written");
}

#[test]
fn events_of_megabytes_and_without_a_bottom_are_answered_in_bounded_memory() {
    let s3 = S3::start();
    let variables = [
        "BUCKET",
        "TABLE",
        "DEPLOYMENT",
        "CLUSTERS",
        "BACKUP_DOCUMENT",
        "PROMOTE_DOCUMENT",
        "DRILL_MACHINE",
        "PROMOTION_MACHINE",
        "SIGNING_KEY",
        "TOPIC",
        "LAUNCH_TEMPLATE",
        "SUBNETS",
        "ROOT_DEVICE",
        "VOLUME_KEY",
        "FINISH_BACKUP",
        "FINISH_PROMOTE",
        "APPROVAL_HOURS",
        "APPROVAL_URL",
    ];
    let variables: Vec<(String, &str)> = variables.iter().map(|name| (format!("HIGHWATER_{name}"), "24")).collect();
    let env: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    // The largest event that Lambda takes.
    const LARGEST: usize = 6 << 20;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let text = |bytes: usize| json!("orders".repeat(bytes / 6));
    let wide = |n: usize| json!(vec![0; n]);
    // Those that a person, an event of another service and a schedule call; all read their events by the same code.
    for name in ["decide-approval", "finish-backup", "start-backup"] {
        let function = Function::start(name, &env, &s3);
        let url = |body: Value| {
            json!({"version": "2.0", "body": body, "requestContext": {"authorizer": {"iam": {
            "userArn": "arn:aws:iam::000000000000:user/ada", "userId": "AIDAEXAMPLE", "callerId": "AIDAEXAMPLE", "accountId": "000000000000"}}}})
        };
        let events: Vec<(&str, String)> = vec![
            ("a name of megabytes", json!({"cluster": text(LARGEST - 100)}).to_string()),
            ("a list of megabytes", json!({"cluster": "orders", "drill": wide(LARGEST / 2 - 100)}).to_string()),
            ("a body of megabytes", url(text(LARGEST - 1000)).to_string()),
            ("a body without a bottom", url(json!(deep)).to_string()),
            ("no bottom", format!("{{\"cluster\":{deep}}}")),
            ("not an object", "7".into()),
            ("null", "null".into()),
        ];
        for (what, event) in &events {
            assert!(event.len() <= LARGEST, "{what}: {}", event.len());
            match function.send(event) {
                Err(error) => {
                    let (kind, message) =
                        (error["errorType"].as_str().unwrap_or_default(), error["errorMessage"].as_str().unwrap_or_default());
                    assert!(matches!(kind, "BadInput" | "Permanent") || message.contains("recursion"), "{name}: {what}: {error}");
                    assert!(error.to_string().len() < 4000, "{name}: {what}: an error of {} bytes", error.to_string().len());
                }
                // The URL's function answers with a status, whatever came.
                Ok(answer) => assert!(
                    name == "decide-approval" && matches!(answer["statusCode"].as_u64(), Some(400..=403)),
                    "{name}: {what}: {answer}"
                ),
            }
        }
        let peak = function.peak_kib();
        assert!(peak < 256 << 10, "{name} held {peak} KiB: it has 256 MiB on AWS");
    }
}
