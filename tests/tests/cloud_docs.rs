//! The commands that FIRST-HOUR, the README and the runbook tell people to type are run, in the order of [`FIRST_HOUR`] and [`RUNS`], as
//! they stand there: only the words in capitals, and directories of a host, are replaced. A command that is new, changed or gone fails the
//! test, and so does a line that FIRST-HOUR shows as a command's output and that is not said: ids, times and sizes may differ.

use highwater_tests::{Cloud, CloudHost, Host, Load, MariaDb, Person, S3, Scratch, binary, config, tool, wait_for, wait_for_within};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What becomes of a command.
#[derive(Debug, Clone, Copy)]
enum How {
    /// Run, with this exit code, or one of these.
    Exits(&'static [i32]),
    /// Run again until it succeeds and says this: somebody waits for something.
    Until(&'static str),
    /// Run by what is named here, since it builds, deploys or waits for other people.
    By(&'static str),
}
use How::{By, Exits, Until};

const DONE: How = Exits(&[0]);
/// `status` tells with 3 that somebody is needed.
const TOLD: How = Exits(&[0, 3]);

/// A wrong configuration is told before anything is deployed.
const WRONG_CONFIGURATION: &str = "cd infra/cdk && npx cdk synth --quiet -c config=my.yaml";

/// The commands of FIRST-HOUR, in its order, on a deployment that nobody has used yet.
const FIRST_HOUR: &[(&str, How)] = &[
    ("make demo", By("a person; its steps are those of `cloud_restore` and `cloud_drill`")),
    ("make package", By("`package`, with debug binaries")),
    (WRONG_CONFIGURATION, By("`cloud_docs`, below")),
    ("cd infra/cdk && npm ci && npx cdk deploy -c config=my.yaml", By("`cloud_deploy`, which does what `cdk deploy` does")),
    (
        "aws ssm send-command --document-name highwater-install --instance-ids i-0123456789abcdef0 --parameters cluster=orders",
        By("`cloud_install`"),
    ),
    ("sudo highwater-host doctor --bucket BUCKET", DONE),
    ("highwater status", Exits(&[3])),
    ("highwater backup now --cluster orders", DONE),
    ("highwater backups --cluster orders", DONE),
    ("highwater drill --cluster orders", DONE),
    ("highwater status --cluster orders", DONE),
    ("aws s3 sync s3://highwater-pages-ACCOUNT-REGION pages", DONE),
    ("highwater certificate verify --cluster orders --save proof", DONE),
    (
        "highwater certificate verify proof/certificate.json --key proof/highwater.der --plan proof/plan.json --report proof/report.json",
        DONE,
    ),
    ("highwater restore --cluster orders --no-wait", DONE),
    ("highwater approvals --cluster orders", Until("waiting")),
    ("highwater approve --cluster orders --request REQUEST --certificate SHA256", DONE),
    ("highwater follow REQUEST --cluster orders", DONE),
    ("highwater cost", DONE),
];

/// Every other command of the documents, in an order in which they make sense.
const RUNS: &[(&str, How)] = &[
    ("make test", By("CI")),
    ("make torture", By("a person")),
    ("highwater certificate verify --cluster orders", DONE),
    ("highwater restore --cluster orders --target 2026-11-22T02:00:00Z", By("`cloud_cli`, where somebody else approves")),
    ("highwater fetch --cluster orders --into /srv/orders", DONE),
    ("highwater prune --dry-run --cluster orders", DONE),
    ("highwater catalog audit --cluster orders", DONE),
    ("highwater completions bash", DONE),
    // The runbook.
    ("aws s3 presign s3://DEPLOYMENT-pages-ACCOUNT-REGION/index.html", DONE),
    ("aws s3 sync s3://DEPLOYMENT-pages-ACCOUNT-REGION pages", DONE),
    ("highwater backups --cluster CLUSTER", DONE),
    ("highwater show BACKUP --cluster CLUSTER", DONE),
    ("aws logs filter-log-events --log-group-name /aws/lambda/DEPLOYMENT-finish-backup --query 'events[-20:].message' --output text", DONE),
    ("aws logs filter-log-events --log-group-name /aws/lambda/DEPLOYMENT-reconcile --query 'events[-20:].message' --output text", DONE),
    (
        "aws logs filter-log-events --log-group-name /aws/lambda/DEPLOYMENT-reconcile --filter-pattern leaked --query 'events[-20:].message' --output text",
        DONE,
    ),
    (
        "aws logs filter-log-events --log-group-name /aws/lambda/DEPLOYMENT-NAME --filter-pattern ERROR --query 'events[-20:].message' --output text",
        DONE,
    ),
    ("highwater status --cluster CLUSTER", TOLD),
    ("aws scheduler get-schedule --group-name DEPLOYMENT --name backup-CLUSTER", DONE),
    ("highwater backup now --cluster CLUSTER", DONE),
    ("aws ssm get-command-invocation --command-id COMMAND --instance-id HOST", DONE),
    ("highwater audit --cluster CLUSTER", DONE),
    ("highwater backup now --cluster CLUSTER --full", DONE),
    ("highwater drill --cluster CLUSTER", DONE),
    ("aws ec2 describe-instances --filters Name=tag:highwater:drill,Values=DRILL", DONE),
    (
        "aws ec2 describe-instances --filters Name=tag:highwater:deployment,Values=DEPLOYMENT Name=instance-state-name,Values=pending,running,stopping,stopped",
        DONE,
    ),
    ("aws ec2 terminate-instances --instance-ids INSTANCE", By("`cloud_drill`: reconcile does it, and a person's is the same call")),
    ("highwater prune --dry-run --cluster CLUSTER", DONE),
    ("sudo highwater fetch --cluster CLUSTER --into /var/lib/mysql-restored", DONE),
    ("highwater plan --bucket BUCKET --cluster CLUSTER --target latest --out plan.json", DONE),
    ("sudo highwater-host restore --plan plan.json --into /var/lib/mysql-planned", DONE),
    ("sudo highwater-host restore --plan plan.json --into DIR", DONE),
    ("highwater fetch --cluster CLUSTER --target 2026-11-22T02:00:00Z --into DIR", Exits(&[11])),
    ("aws s3api list-object-versions --bucket BUCKET --prefix KEY", DONE),
    ("highwater certificate verify --help", DONE),
    ("highwater catalog rebuild --cluster CLUSTER --key PUBLIC-KEY", DONE),
    ("highwater catalog audit --cluster CLUSTER --key PUBLIC-KEY", DONE),
    ("highwater plan --copied --bucket VAULT --cluster CLUSTER --target latest --out plan.json", By("`vault`")),
    ("aws ssm send-command --document-name DEPLOYMENT-install --instance-ids HOST", By("`cloud_install`")),
    ("sudo highwater-host promote --resume", By("`promote`, on a promotion that was cut off")),
    ("aws ssm send-command --document-name DEPLOYMENT-resume --instance-ids HOST", By("`cloud_promote`, on a promotion that is stuck")),
    ("aws ssm send-command --document-name DEPLOYMENT-rollback --instance-ids HOST", By("`cloud_promote`, after a promotion")),
];

/// The README's way without a control plane, in its order.
const WITHOUT_CONTROL_PLANE: &[&str] = &[
    "highwater backups --bucket my-backups --cluster orders",
    "highwater next-backup --bucket my-backups --cluster orders --out request.json",
    "highwater-host backup --request request.json",
    "highwater plan --bucket my-backups --cluster orders --target latest --out plan.json",
    "highwater-host drill --plan plan.json --work /srv/drill --report report.json",
    "highwater write-approval --plan plan.json --report report.json --host i-0123456789abcdef0 --requester alice --approver bob --out approval.json",
    "highwater-host promote --plan plan.json --report report.json --approval approval.json",
    "highwater-host rollback",
];

/// The commands of a document: the lines of its console blocks, and the words in backticks that begin with a program and have an option.
fn commands(document: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let mut found = BTreeSet::new();
    for (n, part) in text.split("```").enumerate() {
        if n % 2 == 1 {
            let lines = part.replace("\\\n", " ");
            let typed = lines.lines().filter_map(|line| line.trim().strip_prefix("$ "));
            found.extend(typed.map(|line| words(line.split("  #").next().unwrap_or(line).split(" # ").next().unwrap_or(line))));
        } else {
            let spans = part.split('`').skip(1).step_by(2).map(words);
            let programs = ["aws ", "highwater ", "sudo highwater", "highwater-host ", "npx "];
            let is_command = |span: &String| programs.iter().any(|p| span.starts_with(p)) && span.contains(" --") && !span.contains('…');
            found.extend(spans.filter(is_command));
        }
    }
    found
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_command_of_the_documents_is_known_here() {
    let runs = || FIRST_HOUR.iter().chain(RUNS);
    let known: BTreeSet<String> = runs().map(|run| run.0).chain(WITHOUT_CONTROL_PLANE.iter().copied()).map(str::to_owned).collect();
    let mut documented = commands("README.md");
    documented.extend(["docs/RUNBOOK.md", "docs/FIRST-HOUR.md"].into_iter().flat_map(commands));
    // The README names two more in passing.
    let passing = BTreeSet::from(["highwater-host doctor --bucket BUCKET".to_owned()]);
    let unknown: Vec<_> = documented.difference(&known).filter(|command| !passing.contains(*command)).collect();
    let gone: Vec<_> = known.difference(&documented).collect();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (command, how) in runs() {
        let By(whom) = how else { continue };
        let named: Vec<_> = whom.split('`').skip(1).step_by(2).collect();
        let missing = named.iter().find(|name| !name.contains(' ') && !tests.join(format!("{name}.rs")).exists());
        assert!(missing.is_none(), "{command}: no test {missing:?}");
    }
    assert!(unknown.is_empty() && gone.is_empty(), "not run here: {unknown:#?}\nin no document: {gone:#?}");
}

/// What a document shows below a command as its output, line by line; a line that ends with … is the beginning of one.
fn shown(document: &str) -> Vec<(String, Vec<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let blocks: Vec<&str> = text.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in blocks.iter().flat_map(|block| block.lines()).filter(|line| !line.trim().is_empty()) {
        match (line.strip_prefix("$ "), found.last_mut()) {
            (Some(command), _) => found.push((words(command.split("  #").next().unwrap()), Vec::new())),
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => panic!("{document}: {line} stands below no command"),
        }
    }
    found
}

/// A line without what differs from run to run: whatever has a digit, with the unit that follows it.
fn shape(line: &str) -> String {
    let mut shape: Vec<&str> = Vec::new();
    for word in line.split_whitespace() {
        let is_unit = ["s", "min", "h", "d", "B", "KiB", "MiB", "GiB"].contains(&word.trim_end_matches([',', '.', ';', ':']));
        match (word.contains(|c: char| c.is_ascii_digit()), shape.last()) {
            (true, Some(&"#")) => {}
            (true, _) => shape.push("#"),
            (false, Some(&"#")) if is_unit => {}
            (false, _) => shape.push(word),
        }
    }
    shape.join(" ")
}

/// That a command said each of these lines.
fn said_all(command: &str, lines: &[String], said: &str) {
    let said_shapes: Vec<String> = said.lines().map(shape).collect();
    for line in lines {
        let found = match line.strip_suffix('…') {
            Some(beginning) => {
                said.lines().any(|said| said.starts_with(beginning)) || said_shapes.iter().any(|said| said.starts_with(&shape(beginning)))
            }
            None => said_shapes.contains(&shape(line)),
        };
        assert!(found, "{command} does not say\n{line}\nbut\n{said}");
    }
}

/// Where people type: a directory, and what the words of the documents stand for.
struct Terminal<'a> {
    cloud: &'a Cloud,
    host: &'a CloudHost<'a>,
    place: Scratch,
    path: String,
    key: PathBuf,
    /// Who asks, and who approves.
    people: [Person; 2],
    directories: u32,
}

impl<'a> Terminal<'a> {
    fn new(cloud: &'a Cloud, host: &'a CloudHost<'a>) -> Self {
        let place = Scratch::new("docs");
        std::fs::create_dir_all(place.join("bin")).unwrap();
        std::os::unix::fs::symlink(binary("highwater"), place.join("bin/highwater")).unwrap();
        std::os::unix::fs::symlink(tool("peers/bin/aws"), place.join("bin/aws")).unwrap();
        place.script("bin/sudo", "exec \"$@\"");
        let bins = [place.join("bin"), host.directory().join("bin")].map(|bin| bin.display().to_string()).join(":");
        let path = format!("{bins}:{}", std::env::var("PATH").unwrap());
        let key = place.join("public-key.der");
        std::fs::write(&key, cloud.public_key(cloud.output("SigningKey"))).unwrap();
        Self { cloud, host, place, path, key, people: ["ada", "bob"].map(|name| cloud.user(name)), directories: 0 }
    }

    /// Of the newest record of a kind.
    fn newest(&self, prefix: &str, of: &str) -> String {
        let found = self.cloud.items_under("orders", prefix).pop();
        let value = found.as_ref().and_then(|item| item.pointer(of)).and_then(Value::as_str);
        value.unwrap_or_else(|| panic!("no {prefix} with {of} in {found:?}")).to_owned()
    }

    /// The command as it is typed here. Every command gets a directory of its own: a restore refuses one that is used.
    fn typed(&mut self, command: &str) -> String {
        self.directories += 1;
        let into = self.place.join(format!("into-{}", self.directories)).display().to_string();
        let mut typed = command.to_owned();
        for (word, is) in [
            ("DEPLOYMENT-NAME", "DEPLOYMENT-start-backup".to_owned()),
            ("-ACCOUNT-REGION", "-000000000000-eu-west-1".to_owned()),
            ("PUBLIC-KEY", self.key.display().to_string()),
            ("DEPLOYMENT", "highwater".to_owned()),
            ("CLUSTER", "orders".to_owned()),
            ("HOST", self.host.instance().to_owned()),
            ("BUCKET", self.cloud.output("Bucket").to_owned()),
            ("KEY", "v1/orders/".to_owned()),
            ("/var/lib/mysql-restored", into.clone()),
            ("/var/lib/mysql-planned", into.clone()),
            ("/srv/orders", into.clone()),
            ("--into DIR", format!("--into {into}")),
        ] {
            typed = typed.replace(word, &is);
        }
        for (word, prefix, of) in [
            ("BACKUP", "backup#", "/backup_id"),
            ("DRILL", "drill#", "/drill_id"),
            ("REQUEST", "approval#", "/request/id"),
            ("SHA256", "approval#", "/request/question/certificate/sha256"),
        ] {
            if typed.contains(word) {
                typed = typed.replace(word, &self.newest(prefix, of));
            }
        }
        if typed.contains("COMMAND") {
            let of_host = json!({"InstanceId": self.host.instance()});
            let sent = self.cloud.aws("ssm", "AmazonSSM.ListCommandInvocations", &of_host).unwrap_or_else(|e| panic!("{e:?}"));
            typed = typed.replace("COMMAND", sent["CommandInvocations"][0]["CommandId"].as_str().expect("a command"));
        }
        typed
    }

    /// Types it: exit code, and all that was said.
    fn run(&mut self, command: &str) -> (i32, String) {
        let typed = self.typed(command);
        let mut shell = Command::new("bash");
        shell.args(["-c", &typed]).env("PATH", &self.path).envs(self.cloud.env());
        // Whoever asks or approves is somebody, and nobody does both.
        let person = &self.people[usize::from(typed.starts_with("highwater approv"))];
        shell.envs(person.env().iter().filter(|_| typed.starts_with("highwater ")).copied());
        shell.env("HIGHWATER_APPROVAL_URL", self.cloud.approval_url()).env("HIGHWATER_DEPLOYMENT", "highwater");
        let output = shell.current_dir(self.place.path()).stdin(Stdio::null()).output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code().unwrap_or(-1), said)
    }

    /// Types all of these; how many were run.
    fn run_all(&mut self, runs: &[(&str, How)], shown: &[(String, Vec<String>)]) -> usize {
        let mut run = 0;
        for (command, how) in runs {
            let said = match how {
                By(_) => continue,
                Exits(codes) => {
                    let (code, said) = self.run(command);
                    assert!(codes.contains(&code), "{command}\nended with {code}, not {codes:?}:\n{said}");
                    said
                }
                Until(words) => wait_for_within(Duration::from_secs(150), words, || {
                    let (code, said) = self.run(command);
                    (code == 0 && said.contains(words)).then_some(said)
                }),
            };
            for (_, lines) in shown.iter().filter(|(shown, _)| shown == command) {
                said_all(command, lines, &said);
            }
            run += 1;
        }
        run
    }
}

#[test]
fn what_the_documents_tell_people_to_type_works() {
    let mut config = config();
    config["clusters"]["orders"]["backup"]["max_incrementals"] = 6.into();
    let cloud = Cloud::deployed(&config);
    let db = MariaDb::start();
    Load::fill(&db, 200);
    let host = cloud.host("orders", &db);
    let mut terminal = Terminal::new(&cloud, &host);
    let shown = shown("docs/FIRST-HOUR.md");
    let first = terminal.run_all(FIRST_HOUR, &shown);
    assert!(first > 10 && shown.iter().filter(|(_, lines)| !lines.is_empty()).count() > 8, "{first}: {shown:?}");
    cloud.fire("fleet-reconcile");
    wait_for("reconcile's log", || (!cloud.function_log("reconcile").is_empty()).then_some(()));
    let run = terminal.run_all(RUNS, &[]);
    assert!(run > 25, "only {run} commands were run");
}

/// The example with the mistakes that FIRST-HOUR shows.
#[test]
fn what_is_shown_of_a_wrong_configuration_is_what_is_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let place = Scratch::new("docs-config");
    let mut yaml = std::fs::read_to_string(root.join("infra/cdk/highwater.yaml")).unwrap();
    for (right, wrong) in [
        ("schedule: rate(1 hour)", "schedule: hourly"),
        ("strategy: incremental", "stratgy: incremental"),
        ("timeout_hours: 12", "timeout_hours: 72"),
        ("image: ami-0fedcba9876543210", "image: latest"),
    ] {
        assert!(yaml.contains(right), "{right}");
        yaml = yaml.replacen(right, wrong, 1);
    }
    std::fs::write(place.join("my.yaml"), yaml).unwrap();
    // Typed as it stands, but for the configuration's place and that of the output.
    let typed = WRONG_CONFIGURATION.replace("my.yaml", &format!("{0}/my.yaml --output {0}/out", place.path().display()));
    let output = Command::new("bash").args(["-c", &typed]).current_dir(&root).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let said = said.replace(&format!("{}/", place.path().display()), "");
    let shown = shown("docs/FIRST-HOUR.md");
    let (_, lines) = shown.iter().find(|(command, _)| command == WRONG_CONFIGURATION).expect("the command");
    assert_eq!(lines.len(), 4, "{lines:?}");
    // Here every digit counts: the lines' numbers are what it is about.
    lines
        .iter()
        .for_each(|line| assert!(said.lines().any(|said| said.starts_with(line.trim_end_matches('…'))), "{line}\nis not said:\n{said}"));
}

#[test]
fn the_readmes_way_without_a_control_plane_works() {
    let (db, s3) = (MariaDb::start(), S3::start_on_disk());
    Load::fill(&db, 200);
    let mut host = Host::new(&db, &s3);
    host.promotable(&db).as_root(&db);
    let place = Scratch::new("docs");
    place.script("highwater-host", &format!("exec {:?} --config {:?} \"$@\"", binary("highwater-host"), host.config()));
    std::os::unix::fs::symlink(binary("highwater"), place.join("highwater")).unwrap();
    let path = format!("{}:{}", place.path().display(), std::env::var("PATH").unwrap());
    for command in WITHOUT_CONTROL_PLANE {
        let typed = command
            .replace("my-backups", "backups")
            .replace("--cluster orders", "--cluster shop")
            .replace("i-0123456789abcdef0", "db-1")
            .replace("/srv/drill", &place.join("drill").display().to_string());
        let mut shell = Command::new("bash");
        shell.args(["-c", &typed]).env("PATH", &path).envs(s3.env()).current_dir(place.path()).stdin(Stdio::null());
        let output = shell.output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "{typed}: {}\n{said}", output.status);
    }
}
