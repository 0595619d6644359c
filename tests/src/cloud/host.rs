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
    /// From now on a drill's instance finds a helper that never comes to an end.
    pub fn drills_hang(&self) {
        std::fs::create_dir(self.scratch.join("hang")).expect("make the helper's directory");
        self.scratch.script("hang/highwater-host", "sleep 600 & wait");
        let path = [self.scratch.join("hang"), self.scratch.join("image")];
        self.control("PUT", "hosts", &json!({"path": path, "env": {"HIGHWATER_SCRATCH": self.scratch.path()}}));
    }

    /// Launches the host that the configuration names for `cluster`, with `db` as its server, reached as root (a promotion
    /// fences it) and promotable. Its `highwater-host` reads this host's own configuration in the place of /etc.
    pub fn host(&self, cluster: &str, db: &MariaDb) -> CloudHost<'_> {
        let parameter = json!({"Name": format!("/highwater/clusters/{cluster}")});
        let found = self.aws("ssm", "AmazonSSM.GetParameter", &parameter).unwrap_or_else(|e| panic!("{cluster} is not deployed: {e:?}"));
        let stored: Value = serde_json::from_str(text(&found["Parameter"], "Value")).expect("the cluster's parameter");
        self.host_with(text(&stored, "host"), cluster, db, &json!({}))
    }

    /// The same under an id of the test's choice, with tags beside those of every host.
    pub fn host_with(&self, instance: &str, cluster: &str, db: &MariaDb, tags: &Value) -> CloudHost<'_> {
        let instance = instance.to_owned();
        let directory = self.scratch.join(&instance);
        std::fs::create_dir_all(directory.join("bin")).expect("make the host's directory");

        let mut toml = HostToml::new(directory.join("host.toml"));
        toml.set("", "cluster", format!("{cluster:?}")).set("", "host_id", format!("{instance:?}"));
        toml.set("", "state_dir", format!("{:?}", directory.join("state")));
        toml.set("server", "socket", format!("{:?}", db.socket())).set("server", "defaults_file", format!("{:?}", db.root_defaults()));
        toml.set("restore", "keep_free_mib", "64").promotable(db);

        let helper = format!("exec {:?} --config {:?} \"$@\"", binary("highwater-host"), toml.path());
        self.scratch.script(&format!("{instance}/bin/highwater-host"), &helper);
        self.launch_host(&instance, cluster, &[directory.join("bin")], tags);
        CloudHost { cloud: self, instance, directory, toml }
    }

    /// Launches a host as it comes: an SSM agent, the AWS CLI and the role of its cluster, no helper. Its directory, whose `bin` is
    /// on its PATH.
    pub fn bare_host(&self, instance: &str, cluster: &str, tags: &Value) -> PathBuf {
        let directory = self.scratch.join(instance);
        let [bin, tools] = ["bin", "tools"].map(|name| directory.join(name));
        std::fs::create_dir_all(&bin).expect("make the host's directory");
        std::fs::create_dir_all(&tools).expect("make the host's directory");
        symlink(tool("peers/bin/aws"), tools.join("aws")).expect("link the AWS CLI");
        self.launch_host(instance, cluster, &[bin, tools], tags);
        directory
    }

    fn launch_host(&self, instance: &str, cluster: &str, path: &[PathBuf], tags: &Value) {
        let mut all = json!({"highwater:deployment": super::DEPLOYMENT, "highwater:cluster": cluster});
        tags.as_object().into_iter().flatten().for_each(|(key, value)| all[key] = value.clone());
        let host = json!({"path": path, "env": {"HIGHWATER_SCRATCH": self.scratch.path()}});
        let profile = self.host_profile(cluster);
        self.control("POST", "hosts", &json!({"instance_id": instance, "profile": profile, "tags": all, "host": host}));
        wait_for("the host to boot", || {
            (self.control("GET", &format!("hosts/{instance}"), &json!({}))["state"] == "running").then_some(())
        });
    }

    /// Powers an instance off.
    pub fn power_off(&self, instance: &str) {
        self.control("POST", &format!("hosts/{instance}/shutdown"), &json!({"minutes": 0}));
        wait_for("the instance to end", || {
            (self.control("GET", &format!("hosts/{instance}"), &json!({}))["state"] != "running").then_some(())
        });
    }

    /// Sends a document to a host, as a person does; its command's id.
    pub fn send_document(&self, document: &str, instance: &str, parameters: &Value) -> String {
        let request =
            json!({"DocumentName": format!("{}-{document}", super::DEPLOYMENT), "InstanceIds": [instance], "Parameters": parameters});
        let sent = self.aws("ssm", "AmazonSSM.SendCommand", &request).unwrap_or_else(|e| panic!("send {document}: {e:?}"));
        text(&sent["Command"], "CommandId").to_owned()
    }

    /// How a command ended, as `GetCommandInvocation` has it.
    pub fn wait_command(&self, command: &str, instance: &str) -> Value {
        let wanted = json!({"CommandId": command, "InstanceId": instance});
        wait_for("the command's end", || {
            let found = self.aws("ssm", "AmazonSSM.GetCommandInvocation", &wanted).unwrap_or_else(|e| panic!("{e:?}"));
            (!matches!(found["Status"].as_str(), Some("Pending" | "InProgress"))).then_some(found)
        })
    }

    /// Runs a document on a host to its end.
    pub fn run_document(&self, document: &str, instance: &str, parameters: &Value) -> Value {
        self.wait_command(&self.send_document(document, instance, parameters), instance)
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
