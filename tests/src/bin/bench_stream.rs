//! Measures the pipeline alone: `bench_stream --gb 2`.
//!
//! A generated, InnoDB-like stream (or `--input FILE`, or `--input -`) goes through `upload` to the S3 that the environment
//! names, and comes back through `verify`, or through `fetch` with `--into DIR`. Prints one JSON object.

use anyhow::{Context, Result, bail};
use clap::Parser;
use highwater_aws::s3::Bucket;
use highwater_core::identity::ToolName;
use highwater_core::inventory::InventoryV1;
use highwater_core::manifest::{ObjectRef, ToolInfo};
use highwater_core::plan::PlanStep;
use highwater_core::{BackupId, BackupKind, Document, Lsn, Sha256};
use highwater_host::progress::Progress;
use highwater_host::signal::Cancel;
use highwater_host::stream::xbstream::Writer;
use highwater_host::stream::{FetchOptions, UploadOptions, fetch, store_inventory, upload, verify};
use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Parser)]
struct Args {
    /// Size of the generated stream, GB.
    #[arg(long, default_value_t = 2.0)]
    gb: f64,
    /// Read the stream from a file, or `-` for standard input, instead.
    #[arg(long)]
    input: Option<PathBuf>,
    /// The bucket; created if it is not there.
    #[arg(long, default_value = "highwater-bench")]
    bucket: String,
    /// Extract into this empty directory instead of only verifying.
    #[arg(long)]
    into: Option<PathBuf>,
    /// Only upload.
    #[arg(long)]
    no_fetch: bool,
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    level: i32,
    #[arg(long, default_value_t = 0)]
    threads: usize,
    #[arg(long, default_value_t = 4)]
    uploads: usize,
    #[arg(long, default_value_t = 4)]
    downloads: usize,
    #[arg(long, default_value_t = 64)]
    buffer_mib: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).init();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    let bucket = Bucket::connect(&args.bucket).await;
    bucket.create().await?;
    let (_keep, cancel) = Cancel::manual();
    let id = BackupId::new(jiff::Timestamp::now(), BackupKind::Full, std::process::id() as u16);
    let prefix = format!("v1/bench/{id}/");
    let options = UploadOptions {
        prefix: prefix.clone(),
        attempt: 0,
        compression_level: args.level,
        threads: args.threads,
        uploads: args.uploads,
        buffer_bytes: args.buffer_mib << 20,
        max_bytes_per_second: 0,
    };
    let source: Box<dyn Read + Send> = match &args.input {
        Some(path) if path.as_os_str() == "-" => {
            highwater_host::stream::widen_pipe(std::io::stdin());
            Box::new(std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?))
        }
        Some(path) => Box::new(std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?),
        None => Box::new(generator((args.gb * 1e9) as u64)?),
    };
    let up = Measure::begin();
    let staged = upload(source, &bucket, options, Progress::begin("upload", None), &cancel).await.map_err(chain)?;
    let (files, raw) = (staged.files.clone(), staged.stream_bytes);
    let objects = staged.publish().await.map_err(chain)?;
    let stored: u64 = objects.iter().map(|o| o.size).sum();
    let mut report = serde_json::json!({
        "raw_bytes": raw, "stored_bytes": stored, "ratio": raw as f64 / stored as f64, "objects": objects.len(),
        "frames": objects.iter().map(|o| o.frames).sum::<u32>(), "upload": up.end(raw),
    });
    let inventory = InventoryV1 { format: InventoryV1::FORMAT.into(), backup_id: id.clone(), files, schemas: vec![], tables: vec![] };
    let inventory = store_inventory(&bucket, &prefix, 0, &inventory).await.map_err(chain)?;
    let step = PlanStep {
        backup_id: id,
        kind: BackupKind::Full,
        from_lsn: Lsn::ZERO,
        to_lsn: Lsn::ZERO,
        tool: ToolInfo { name: ToolName::MariadbBackup, version: "10.11.0".parse()? },
        redo_bytes: 0,
        raw_bytes: raw,
        manifest: ObjectRef { key: String::new(), version_id: None, size: 0, sha256: Sha256::of(b"") },
        objects,
        inventory,
    };
    if !args.no_fetch {
        let down = Measure::begin();
        let options = FetchOptions { downloads: args.downloads, threads: args.threads };
        let progress = Progress::begin("fetch", Some(stored));
        match &args.into {
            Some(into) => fetch(&bucket, &step, into, options, progress, &cancel).await.map_err(chain)?,
            None => verify(&bucket, &step, options, progress, &cancel).await.map_err(chain)?,
        };
        report[if args.into.is_some() { "fetch" } else { "verify" }] = down.end(raw);
    }
    report["peak_rss_mib"] = (status_kib("VmHWM:")? / 1024).into();
    println!("{report:#}");
    Ok(())
}

fn chain(error: highwater_host::error::Error) -> anyhow::Error {
    anyhow::anyhow!("{}", error.chain())
}

/// Wall and processor time of a phase.
struct Measure(Instant, f64);

impl Measure {
    fn begin() -> Self {
        Self(Instant::now(), cpu_seconds())
    }

    fn end(self, raw: u64) -> serde_json::Value {
        let (seconds, cpu) = (self.0.elapsed().as_secs_f64(), cpu_seconds() - self.1);
        serde_json::json!({
            "seconds": seconds, "raw_mb_per_s": raw as f64 / 1e6 / seconds, "cpu_seconds_per_gb": cpu / (raw as f64 / 1e9),
        })
    }
}

fn cpu_seconds() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

fn status_kib(field: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    match status.lines().find_map(|line| line.strip_prefix(field)).and_then(|rest| rest.trim().strip_suffix(" kB")) {
        Some(kib) => Ok(kib.parse()?),
        None => bail!("/proc/self/status has no {field}"),
    }
}

/// A stream of two tablespaces whose 10 MiB chunks alternate, made from one chunk prepared beforehand: cheap to produce,
/// and about as compressible as rows of text and numbers.
fn generator(bytes: u64) -> Result<impl Read> {
    const CHUNK: usize = 10 << 20;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut pages = Vec::with_capacity(CHUNK);
    while pages.len() < CHUNK {
        // A 16 KiB page: header, rows (key, digits, filler), a free tail.
        let page_end = pages.len() + (16 << 10);
        pages.extend_from_slice(&random().to_be_bytes());
        pages.extend_from_slice(&[0; 30]);
        while pages.len() < page_end - 1100 {
            pages.extend_from_slice(&(pages.len() as u32).to_be_bytes());
            for _ in 0..6 {
                pages.extend_from_slice(format!("{:011}-", random() % 100_000_000_000).as_bytes());
            }
            pages.extend_from_slice(&[b' '; 40]);
        }
        pages.resize(page_end, 0);
    }
    let rounds = bytes / (2 * CHUNK as u64);
    let mut blocks = Vec::new();
    for name in ["bench/a.ibd", "bench/b.ibd"] {
        let mut writer = Writer::new(Vec::new());
        writer.payload(name, 0, &pages)?;
        blocks.push(writer.into_inner());
    }
    let mut tail = Writer::new(Vec::new());
    for name in ["bench/a.ibd", "bench/b.ibd"] {
        tail.end(name)?;
    }
    tail.payload("xtrabackup_info", 0, b"generated\n")?;
    tail.end("xtrabackup_info")?;
    Ok(Generator { blocks, tail: tail.into_inner(), rounds, at: 0, block: 0, offset: 0 })
}

struct Generator {
    blocks: Vec<Vec<u8>>,
    tail: Vec<u8>,
    rounds: u64,
    at: usize,
    block: usize,
    offset: u64,
}

impl Read for Generator {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let block = if self.rounds > 0 { &mut self.blocks[self.block] } else { &mut self.tail };
        if self.at == 0 && self.rounds > 0 {
            // The offset lies behind magic, flags, type, path and payload length; it is not covered by the CRC.
            let at = 14 + "bench/a.ibd".len() + 8;
            block[at..at + 8].copy_from_slice(&self.offset.to_le_bytes());
        }
        let n = out.len().min(block.len() - self.at);
        out[..n].copy_from_slice(&block[self.at..self.at + n]);
        self.at += n;
        if self.rounds > 0 && self.at == block.len() {
            self.at = 0;
            self.block = 1 - self.block;
            if self.block == 0 {
                self.rounds -= 1;
                self.offset += 10 << 20;
            }
        }
        Ok(n)
    }
}
