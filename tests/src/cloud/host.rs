//! Hosts of the local cloud: a DB host with its server, and the image that drills boot.

use super::{Cloud, text};
use crate::host_toml::HostToml;
use crate::scratch::Scratch;
use crate::{MariaDb, binary, tool, wait_for};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// What a drill's instance finds on its PATH beside the system's own: the helper and the AWS CLI. Server, tool and curl are
/// the system's. The mark lets whatever a host starts end with the test.
pub(super) fn image(scratch: &Scratch) -> Value {
    let bin = scratch.join("image");
    std::fs::create_dir(&bin).expect("make the image's directory");
    symlink(binary("highwater-host"), bin.join("highwater-host")).expect("link the helper");
    symlink(tool("peers/bin/aws"), bin.join("aws")).expect("link the AWS CLI");
    json!({"path": [bin], "env": {"HIGHWATER_SCRATCH": scratch.path()}})
}

/// A DB host: an instance that runs documents with the real helper, beside a real server.
#[derive(Debug)]
pub struct CloudHost<'a> {
    cloud: &'a Cloud,
    instance: String,
    directory: PathBuf,
    toml: HostToml,
}

impl Cloud {
    /// Launches the host that the configuration names for `cluster`, with `db` as its server, reached as root (a promotion
    /// fences it) and promotable. Its `highwater-host` reads this host's own configuration in the place of /etc.
    pub fn host(&self, cluster: &str, db: &MariaDb) -> CloudHost<'_> {
        let parameter = json!({"Name": format!("/highwater/clusters/{cluster}")});
        let found = self.aws("ssm", "AmazonSSM.GetParameter", &parameter).unwrap_or_else(|e| panic!("{cluster} is not deployed: {e:?}"));
        let stored: Value = serde_json::from_str(text(&found["Parameter"], "Value")).expect("the cluster's parameter");
        let instance = text(&stored, "host").to_owned();
        let directory = self.scratch.join(&instance);
        std::fs::create_dir_all(directory.join("bin")).expect("make the host's directory");

        let mut toml = HostToml::new(directory.join("host.toml"));
        toml.set("", "cluster", format!("{cluster:?}")).set("", "host_id", format!("{instance:?}"));
        toml.set("", "state_dir", format!("{:?}", directory.join("state")));
        toml.set("server", "socket", format!("{:?}", db.socket())).set("server", "defaults_file", format!("{:?}", db.root_defaults()));
        toml.set("restore", "keep_free_mib", "64").promotable(db);

        let helper = format!("exec {:?} --config {:?} \"$@\"", binary("highwater-host"), toml.path());
        self.scratch.script(&format!("{instance}/bin/highwater-host"), &helper);
        let host = json!({"path": [directory.join("bin")], "env": {"HIGHWATER_SCRATCH": self.scratch.path()}});
        let tags = json!({"highwater:deployment": super::DEPLOYMENT, "highwater:cluster": cluster});
        let profile = self.host_profile(cluster);
        self.control("POST", "hosts", &json!({"instance_id": instance, "profile": profile, "tags": tags, "host": host}));
        wait_for("the host to boot", || {
            (self.control("GET", &format!("hosts/{instance}"), &json!({}))["state"] == "running").then_some(())
        });
        CloudHost { cloud: self, instance, directory, toml }
    }
}

impl CloudHost<'_> {
    /// Its instance.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Sets a key of a table of its host.toml (`""` for the top); `value` is TOML, strings quoted.
    pub fn set(&mut self, table: &str, key: &str, value: impl Into<String>) -> &mut Self {
        self.toml.set(table, key, value);
        self
    }

    /// How its SSM agent behaves from now on: `online`, `offline`, `mute` or `deaf`.
    pub fn agent(&self, how: &str) -> &Self {
        self.cloud.control("PUT", &format!("hosts/{}", self.instance), &json!({"agent": how}));
        self
    }

    /// A variable in the environment of every command from now on: a crash point of the helper (`HIGHWATER_CRASH`).
    pub fn env(&self, name: &str, value: &str) -> &Self {
        let env = json!({"HIGHWATER_SCRATCH": self.cloud.scratch.path(), name: value});
        self.cloud.control("PUT", &format!("hosts/{}", self.instance), &json!({"env": env}));
        self
    }

    /// How many processes run on it.
    pub fn processes(&self) -> u64 {
        self.cloud.control("GET", &format!("hosts/{}", self.instance), &json!({}))["running"].as_u64().expect("a number of processes")
    }

    /// Its directory: `host.toml`, `state`, `bin`.
    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// The outputs of its commands, oldest first: `(standard output, standard error)`.
    pub fn outputs(&self) -> Vec<(String, String)> {
        let runs = self.cloud.scratch.join(format!("d/hosts/{}/run", self.instance));
        let mut runs: Vec<_> = std::fs::read_dir(runs).into_iter().flatten().flatten().map(|run| run.path()).collect();
        runs.sort_by_key(|run| run.metadata().and_then(|m| m.created()).ok());
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        runs.iter().map(|run| (read(run.join("stdout")), read(run.join("stderr")))).collect()
    }
}
