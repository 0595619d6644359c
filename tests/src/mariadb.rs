//! Private MariaDB servers: one socket, no TCP, gone with the test.

use crate::scratch::Scratch;
use crate::{block_on, run, wait_for};
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Every server has these. The redo log is small, so that a second's load wraps it.
const OPTIONS: &[&str] = &[
    "skip-networking",
    "innodb-log-file-size=32M",
    "innodb-buffer-pool-size=128M",
    "innodb-flush-log-at-trx-commit=2",
    "innodb-data-file-path=ibdata1:12M:autoextend",
    "binlog-format=ROW",
    "character-set-server=utf8mb4",
];

/// A server on a data directory of its own: `<dir>/data`, `<dir>/server.sock`, `<dir>/my.cnf`, `<dir>/error.log`.
///
/// Dropping it kills the server and removes everything.
#[derive(Debug)]
pub struct MariaDb {
    scratch: Scratch,
    datadir: PathBuf,
}

impl MariaDb {
    /// Installs and starts a server that writes a binlog (`binlog.000001`, server id 1).
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more options for its `[mysqld]` section: `["innodb-page-size=4096"]`. A later one wins.
    pub fn start_with(options: &[&str]) -> Self {
        let mut all = vec!["server-id=1", "log-bin=binlog", "gtid-strict-mode=1"];
        all.extend(options);
        let server = Self::prepare("db", None, &all);
        let mut install = server.scratch.command("mariadb-install-db");
        install.arg("--no-defaults").arg(format!("--datadir={}", server.datadir.display())).arg("--skip-test-db");
        install.arg("--auth-root-authentication-method=socket").arg(format!("--auth-root-socket-user={}", os_user()));
        install.args(options.iter().filter(|o| o.starts_with("innodb-")).map(|o| format!("--{o}")));
        // A server that starts removes the temporary tables of every other in the same tmpdir.
        install.arg(format!("--tmpdir={}", server.scratch.path().display()));
        if is_root() {
            install.arg("--user=mysql");
        }
        run(&mut install);
        server.up();
        server
    }

    /// Starts a server on an existing, prepared data directory (a restore's `data`), which it takes possession of.
    /// It writes no binlog and asks for no password, so that looking at the data does not depend on the data's grants.
    pub fn open(datadir: &Path) -> Self {
        Self::open_with(datadir, &[])
    }

    /// The same with more options.
    pub fn open_with(datadir: &Path, options: &[&str]) -> Self {
        let mut all = vec!["skip-grant-tables", "skip-slave-start", "event-scheduler=OFF"];
        all.extend(options);
        let server = Self::prepare("open", Some(datadir), &all);
        if is_root() {
            run(Command::new("chown").args(["-R", "mysql:mysql"]).arg(datadir));
        }
        server.up();
        server
    }

    fn prepare(what: &str, datadir: Option<&Path>, options: &[&str]) -> Self {
        let scratch = Scratch::new(what);
        let datadir = datadir.map_or_else(|| scratch.join("data"), Path::to_owned);
        let dir = scratch.path().display();
        let mut cnf = format!(
            "[mysqld]\ndatadir={}\ntmpdir={dir}\nsocket={dir}/server.sock\npid-file={dir}/server.pid\nlog-error={dir}/error.log\n",
            datadir.display()
        );
        if is_root() {
            cnf.push_str("user=mysql\n");
            let mysql = run(Command::new("id").args(["-u", "mysql"])).trim().parse().expect("the user id of mysql");
            chown(scratch.path(), Some(mysql), None).expect("give the directory to mysql");
        }
        for option in OPTIONS.iter().chain(options) {
            cnf.push_str(option);
            cnf.push('\n');
        }
        fs::write(scratch.join("my.cnf"), cnf).expect("write my.cnf");
        write_service(&scratch);
        Self { scratch, datadir }
    }

    /// Starts it again after `down` or `kill`, and waits until it answers.
    pub fn up(&self) {
        let [start, _, _] = self.service();
        run(self.scratch.command(start).stderr(Stdio::piped()));
        wait_for("the server to answer", || {
            let gone = !self.running();
            let answer = block_on(self.try_connect());
            assert!(answer.is_ok() || !gone, "the server ended: {}", self.error_log());
            answer.ok()
        });
    }

    /// Shuts it down in order.
    pub fn down(&self) {
        let [_, stop, _] = self.service();
        run(&mut self.scratch.command(stop));
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&self) {
        let pid = self.pid().expect("a server to kill");
        run(Command::new("kill").args(["-9", &pid.to_string()]));
        wait_for("the killed server's end", || (!self.running()).then_some(()));
    }

    /// `down`, then `up`.
    pub fn restart(&self) {
        self.down();
        self.up();
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.scratch.join("server.pid")).ok()?.trim().parse().ok()?;
        self.running().then_some(pid)
    }

    /// Whether its process lives, as the status script sees it.
    pub fn running(&self) -> bool {
        let [_, _, status] = self.service();
        self.scratch.command(status).status().expect("run the status script").success()
    }

    /// Commands that a promotion uses as `service`: start (returns before the server answers), stop (returns when it has
    /// ended) and status (0 running, 3 stopped).
    pub fn service(&self) -> [PathBuf; 3] {
        ["start", "stop", "status"].map(|name| self.scratch.join(name))
    }

    /// Its data directory.
    pub fn datadir(&self) -> &Path {
        &self.datadir
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.scratch.join("server.sock")
    }

    /// Its options file.
    pub fn my_cnf(&self) -> PathBuf {
        self.scratch.join("my.cnf")
    }

    /// Its directory.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Its error log.
    pub fn error_log(&self) -> String {
        fs::read_to_string(self.scratch.join("error.log")).unwrap_or_default()
    }

    /// Runs statements, separated by `;`.
    pub fn run(&self, sql: &str) {
        block_on(async {
            let mut conn = self.connect().await;
            conn.query_drop(sql).await.unwrap_or_else(|e| panic!("run {sql:?}: {e}"));
        });
    }

    /// Every row of a query.
    pub fn query<T: FromRow + Send + 'static>(&self, sql: &str) -> Vec<T> {
        block_on(async { self.connect().await.query(sql).await.unwrap_or_else(|e| panic!("query {sql:?}: {e}")) })
    }

    /// The one value of a query.
    pub fn value<T: FromRow + Send + 'static>(&self, sql: &str) -> T {
        self.query(sql).pop().unwrap_or_else(|| panic!("{sql:?} gave no row"))
    }

    /// A new connection as the server's root.
    pub async fn connect(&self) -> Conn {
        self.try_connect().await.unwrap_or_else(|e| panic!("connect to {}: {e}", self.socket().display()))
    }

    /// The same, for a server that may be down.
    pub async fn try_connect(&self) -> mysql_async::Result<Conn> {
        Conn::new(self.options()).await
    }

    /// How to connect as the server's root.
    pub(crate) fn options(&self) -> OptsBuilder {
        OptsBuilder::default()
            .socket(Some(self.socket().display().to_string()))
            .user(Some(os_user()))
            .init(vec!["SET time_zone = '+00:00'"])
    }

    /// A user with exactly the privileges that a backup needs, and the 0600 defaults file that names it and its password.
    pub fn backup_user(&self) -> PathBuf {
        self.run(
            "CREATE USER IF NOT EXISTS hw_backup@localhost IDENTIFIED BY 'correct horse';
             GRANT RELOAD, PROCESS, BINLOG MONITOR ON *.* TO hw_backup@localhost;
             GRANT SELECT ON *.* TO hw_backup@localhost",
        );
        self.defaults("backup.cnf", "user=hw_backup\npassword=\"correct horse\"")
    }

    /// A 0600 defaults file that names the server's root, who is let in by the socket.
    pub fn root_defaults(&self) -> PathBuf {
        self.defaults("root.cnf", &format!("user={}", os_user()))
    }

    fn defaults(&self, name: &str, client: &str) -> PathBuf {
        let path = self.scratch.join(name);
        fs::write(&path, format!("[client]\n{client}\nsocket={}\n", self.socket().display())).expect("write the defaults file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("protect the defaults file");
        path
    }
}

/// Writes `start`, `stop` and `status` beside the server.
fn write_service(scratch: &Scratch) {
    let dir = scratch.path().display();
    // A pid file alone may name a stranger: the process must be a server of this directory.
    let running = format!("pid=$(cat {dir}/server.pid 2>/dev/null) && grep -qzF -e {dir}/my.cnf /proc/$pid/cmdline 2>/dev/null");
    scratch.script("status", &format!("if {running}; then exit 0; else exit 3; fi"));
    scratch.script(
        "start",
        &format!(
            "{running} && exit 0\nrm -f {dir}/server.pid\n\
             HIGHWATER_SCRATCH={dir} setsid mariadbd --defaults-file={dir}/my.cnf </dev/null >>{dir}/error.log 2>&1 &\n\
             while ! [ -s {dir}/server.pid ]; do kill -0 $! 2>/dev/null || {{ tail -5 {dir}/error.log >&2; exit 1; }}; sleep 0.02; done"
        ),
    );
    scratch.script("stop", &format!("{running} || exit 0\nkill -TERM $pid\nwhile {running}; do sleep 0.02; done\nrm -f {dir}/server.pid"));
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user we run as, whom the server lets in as root by its socket.
fn os_user() -> String {
    run(Command::new("id").arg("-un")).trim().to_owned()
}
