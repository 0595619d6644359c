//! The install document on hosts: the deployed release and nothing else, in one step or not at all.

use highwater_core::Sha256;
use highwater_tests::{Cloud, MariaDb, binary, config, run, tool, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const HOST: &str = "i-0db00000000000000";

/// A configuration whose host settings are those of `db`: everything that a fresh host's host.toml needs.
fn config_of(db: &MariaDb, state_dir: &Path) -> Value {
    let mut config = config();
    let [start, stop, status] = db.service().map(|script| json!([script]));
    let cluster = &mut config["clusters"]["orders"];
    cluster["engine"] = json!("mariadb-10.11");
    cluster["state_dir"] = json!(state_dir);
    cluster["server"] = json!({"socket": db.socket(), "defaults_file": db.root_defaults()});
    cluster["promotion"] = json!({"datadir": db.datadir(), "service": {"start": start, "stop": stop, "status": status}});
    config
}

/// A host before its first helper.
struct Fresh<'a> {
    cloud: &'a Cloud,
    directory: PathBuf,
}

impl<'a> Fresh<'a> {
    fn new(cloud: &'a Cloud) -> Self {
        Self { cloud, directory: cloud.bare_host(HOST, "orders", &json!({})) }
    }

    fn parameters(&self, cluster: &str) -> Value {
        json!({"cluster": [cluster], "directory": [self.directory.join("bin")], "config": [self.toml()]})
    }

    /// Sends the document; its end.
    fn install(&self, cluster: &str) -> Value {
        self.cloud.run_document("install", HOST, &self.parameters(cluster))
    }

    fn installs(&self, cluster: &str) {
        let ended = self.install(cluster);
        assert_eq!(ended["Status"], "Success", "{ended}");
        assert_eq!(self.files(".new"), None);
    }

    /// Sends it; it must end with this exit code and say why.
    fn refused(&self, cluster: &str, code: i64, why: &str) {
        let ended = self.install(cluster);
        let said = ended["StandardErrorContent"].as_str().unwrap_or_default();
        assert!(ended["ResponseCode"] == code && said.contains(why), "{ended}");
        assert_eq!(self.files(".new"), None);
    }

    fn toml(&self) -> PathBuf {
        self.directory.join("etc/host.toml")
    }

    /// Contents and inode of `highwater-host<suffix>`.
    fn files(&self, suffix: &str) -> Option<(Vec<u8>, u64)> {
        let path = self.directory.join(format!("bin/highwater-host{suffix}"));
        Some((fs::read(&path).ok()?, path.metadata().ok()?.ino()))
    }
}

/// What the deployed document installs: where it lies, and its digest.
fn artifact(cloud: &Cloud) -> (String, String) {
    let found = cloud.aws("ssm", "AmazonSSM.GetDocument", &json!({"Name": "highwater-install"})).unwrap();
    let text = found["Content"].as_str().unwrap();
    let after = |start: &str, end: char| text.split(start).nth(1).unwrap().split(end).next().unwrap().to_owned();
    (format!("s3://{}", after("aws s3 cp --only-show-errors 's3://", '\'')), after("its SHA-256 is not ", '\''))
}

#[test]
fn a_host_is_installed_from_the_deployed_release_and_from_nothing_else() {
    let db = MariaDb::start();
    let cloud = Cloud::deployed(&config_of(&db, &db.scratch().join("state")));
    let host = Fresh::new(&cloud);

    host.refused("", 1, "name the cluster of this host");
    host.refused("nobodys", 1, "the settings of nobodys cannot be read");
    assert!(host.files("").is_none() && !host.toml().exists(), "nothing was installed");

    let ended = host.install("orders");
    assert_eq!(ended["Status"], "Success", "{ended}");
    assert!(ended["StandardOutputContent"].as_str().unwrap().contains(r#""ready":true"#), "{ended}");
    let installed = host.files("").unwrap();
    let (uri, sha256) = artifact(&cloud);
    assert_eq!(Sha256::of(&installed.0).to_string(), sha256);
    let says = run(Command::new(host.directory.join("bin/highwater-host")).arg("--version"));
    assert_eq!(says, run(Command::new(binary("highwater-host")).arg("--version")));
    let toml = fs::read_to_string(host.toml()).unwrap();
    assert!(
        toml.starts_with(&format!("host_id = \"{HOST}\"\ncluster = \"orders\"\n")) && toml.contains("engine = \"mariadb-10.11\""),
        "{toml}"
    );
    assert_eq!(host.toml().metadata().unwrap().permissions().mode() & 0o777, 0o600);

    // Twice is as good as once, and a host's own configuration stays its own.
    fs::write(host.toml(), format!("{toml}\n# as the DBA left it\n")).unwrap();
    host.installs("");
    assert!(fs::read_to_string(host.toml()).unwrap().ends_with("# as the DBA left it\n"));
    assert_eq!((host.files("").unwrap().0, host.files(".previous")), (installed.0.clone(), None));

    // Somebody put another program where the release lies.
    let other = db.scratch().script("other", "echo mischief");
    run(Command::new(tool("peers/bin/aws")).envs(cloud.env()).args(["s3", "cp", "--only-show-errors"]).arg(other).arg(&uri));
    host.refused("", 1, "is not the helper that was deployed");
    assert_eq!(host.files("").unwrap().0, installed.0);
}

#[test]
fn a_new_helper_takes_the_place_of_the_old_one_only_after_its_doctor_has_passed() {
    let db = MariaDb::start();
    let mut cloud = Cloud::start();
    // Two releases: the debug helper, told where this host's configuration lies; the second one behaves as the test wants.
    let toml = cloud.scratch().join(HOST).join("etc/host.toml");
    let helper = format!(
        "case \" $* \" in *' --config '*) ;; *) set -- --config {toml:?} \"$@\" ;; esac\nexec {:?} \"$@\"",
        binary("highwater-host")
    );
    let behaviour = cloud.scratch().join("behaviour");
    let behaves = |how: &str| fs::write(&behaviour, how).unwrap();
    let cases = "broken*) exit 1 ;; sick*doctor*) exit 12 ;; slow*doctor*) touch \"$0.waits\"; sleep 600 ;;";
    let releases = [
        cloud.scratch().script("release-1", &helper),
        cloud.scratch().script("release-2", &format!("case \"$(cat {behaviour:?}) $*\" in {cases} esac\n{helper}")),
    ];
    let config = config_of(&db, &cloud.scratch().join("state"));
    let deploy = |cloud: &mut Cloud, n: usize| {
        cloud.deploy_with(&config, &|name| if name == "highwater-host" { releases[n].clone() } else { binary(name) });
    };
    deploy(&mut cloud, 0);
    {
        let host = Fresh::new(&cloud);
        // The first helper of a host stays, whatever its doctor says: a person needs it to mend what doctor names.
        db.down();
        host.refused("orders", 12, "mend what it names");
        assert!(host.files("").is_some());
        db.up();
        host.installs("orders");
        assert_eq!(host.files(".previous"), None);
        cloud.fire("backup-orders");
        cloud.wait_for_item("orders", "backup#", |backup| backup["state"] == "committed");
    }
    let directory = cloud.scratch().join(HOST);
    deploy(&mut cloud, 1);
    let host = Fresh { cloud: &cloud, directory };
    let old = host.files("").unwrap();

    behaves("broken");
    host.refused("", 1, "does not run on this host");
    behaves("sick");
    host.refused("", 12, "the old one stays");
    behaves("slow");
    let command = cloud.send_document("install", HOST, &host.parameters(""));
    wait_for("the new helper's doctor", || cloud.scratch().join("release-2.waits").exists().then_some(()));
    assert!(host.files(".new").is_some());
    host.cloud.aws("ssm", "AmazonSSM.CancelCommand", &json!({"CommandId": command})).unwrap();
    assert_ne!(cloud.wait_command(&command, HOST)["Status"], "Success");
    assert_eq!((host.files(""), host.files(".previous")), (Some(old.clone()), None), "the old helper never left its place");

    behaves("well");
    host.installs("");
    let new = host.files("").unwrap();
    assert!(new.0 != old.0 && host.files(".previous") == Some(old.clone()), "the old helper is kept");
    host.installs("");
    assert_eq!((host.files("").unwrap().0, host.files(".previous")), (new.0, Some(old)), "twice, the one before is still kept");
    cloud.fire("backup-orders");
    cloud.wait_for_item("orders", "backup#", |backup| {
        backup["state"] == "committed" && backup["backup_id"].as_str().is_some_and(|id| id.contains("-incremental-"))
    });
}
