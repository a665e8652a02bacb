//! `flotilla ctl export`.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Seek, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use flotilla::backup::{Ban, Decoder, Header, MAGIC, Record, Totals};
use flotilla_rpc::admin::{ExportShardRequest, ListBansRequest, ListShardsRequest};
use futures_util::TryStreamExt;
use tokio::time::{sleep, timeout};

use super::{CtlError, Output, connection::Node};

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The file to write; there must not be one yet.
    file: PathBuf,
}

/// Writes what the cluster keeps into a file, which appears when all of it is on the disk. `patience` is how long nothing may come.
pub(super) async fn run(
    args: ExportArgs,
    node: Node,
    patience: Duration,
    output: Output,
) -> Result<(), CtlError> {
    let ExportArgs { file } = args;
    if file.exists() {
        let reason = format!("{} is there already", file.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason).into());
    }
    let part = part_of(&file);
    let written = write(&part, node, patience).await.and_then(|totals| {
        fs::rename(&part, &file)?;
        sync_directory(&file)?;
        Ok(totals)
    });
    let totals = written.inspect_err(|_| drop(fs::remove_file(&part)))?;
    let Totals { shards, sessions, subscriptions, messages, retained, bans, .. } = totals;
    let json = serde_json::json!({
        "file": file, "shards": shards, "sessions": sessions, "subscriptions": subscriptions,
        "messages": messages, "retained": retained, "bans": bans,
    });
    output.print(&json, || format!("{totals} of {shards} shards are in {}", file.display()))
}

async fn write(part: &Path, mut node: Node, patience: Duration) -> Result<Totals, CtlError> {
    let silent = || CtlError::Late(patience);
    let status = timeout(patience, node.status()).await.map_err(|_| silent())??;
    if status.cluster_id.is_empty() {
        return Err(CtlError::NotFound("cluster yet".to_owned()));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let header = Header {
        cluster_name: status.cluster_name.clone(),
        cluster_id: status.cluster_id.clone(),
        at: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        shards: status.shards,
    };
    let mut file = BackupFile::create(part)?;
    file.put(&Record::Header(header))?;
    for ban in timeout(patience, bans(&mut node)).await.map_err(|_| silent())?? {
        file.put(&Record::Ban(ban))?;
    }
    for shard in 0..status.shards {
        let mut since = Instant::now();
        let begin = (file.file.stream_position()?, file.totals);
        // Its leader may change: whoever leads it then is asked for all of it.
        while let Err(error) = self::shard(&mut file, &node, shard, patience, &mut since).await {
            if !error.may_pass() || since.elapsed() >= patience {
                return Err(error);
            }
            file.go_back(begin)?;
            sleep(AGAIN).await;
        }
    }
    file.finish()
}

async fn bans(node: &mut Node) -> Result<Vec<Ban>, CtlError> {
    let pages = node.client.list_bans(ListBansRequest {}).await.map_err(|status| node.refusal(&status))?;
    let mut pages = pages.into_inner();
    let mut bans = Vec::new();
    while let Some(page) = pages.try_next().await.map_err(|status| node.refusal(&status))? {
        bans.extend(page.bans.into_iter().map(|ban| Ban {
            kind: ban.r#as,
            who: ban.who,
            reason: ban.reason,
            by: ban.by,
        }));
    }
    Ok(bans)
}

/// Writes a shard, as the node tells it that leads it. Notes when something has come.
async fn shard(
    file: &mut BackupFile,
    node: &Node,
    shard: u32,
    patience: Duration,
    since: &mut Instant,
) -> Result<(), CtlError> {
    let silent = |_| CtlError::Late(patience);
    let mut leader = timeout(patience, leader(node.clone(), shard)).await.map_err(silent)??;
    let request = leader.client.export_shard(ExportShardRequest { shard });
    let chunks = timeout(patience, request).await.map_err(silent)?;
    let mut chunks = chunks.map_err(|status| leader.refusal(&status))?.into_inner();
    let mut decoder = Decoder::default();
    while let Some(chunk) = timeout(patience, chunks.message())
        .await
        .map_err(silent)?
        .map_err(|status| leader.refusal(&status))?
    {
        *since = Instant::now();
        decoder.feed(&chunk.data);
        while let Some(record) = decoder.next_record()? {
            file.put(&record)?;
        }
    }
    if decoder.is_empty() { Ok(()) } else { Err(CtlError::Incomplete) }
}

/// The node that leads a shard, as far as this one knows.
async fn leader(mut node: Node, shard: u32) -> Result<Node, CtlError> {
    let status = node.status().await?;
    let reply =
        node.client.list_shards(ListShardsRequest {}).await.map_err(|status| node.refusal(&status))?;
    let leader = reply.into_inner().shards.into_iter().find(|known| known.shard == shard);
    let leader = leader.and_then(|known| status.nodes.iter().find(|node| node.id == known.leader));
    let leader = leader.ok_or(CtlError::NoLeader(shard))?;
    node.of(&status, leader)
}

/// A file that is being written.
struct BackupFile {
    file: BufWriter<File>,
    totals: Totals,
}

impl BackupFile {
    fn create(path: &Path) -> Result<Self, CtlError> {
        // One that an export has left that was killed.
        let _ = fs::remove_file(path);
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        // There are messages in it.
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = BufWriter::new(options.open(path)?);
        file.write_all(&MAGIC)?;
        Ok(Self { file, totals: Totals::default() })
    }

    fn put(&mut self, record: &Record) -> Result<(), CtlError> {
        self.totals.add(record);
        self.file.write_all(&record.encode())?;
        Ok(())
    }

    /// Forgets what was written behind a place.
    fn go_back(&mut self, (place, totals): (u64, Totals)) -> Result<(), CtlError> {
        self.file.seek(io::SeekFrom::Start(place))?;
        self.file.get_mut().set_len(place)?;
        self.totals = totals;
        Ok(())
    }

    fn finish(mut self) -> Result<Totals, CtlError> {
        self.put(&Record::End(self.totals))?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok(self.totals)
    }
}

/// Where a file is while it is being written.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// The name of the file is on the disk, too.
fn sync_directory(file: &Path) -> io::Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// How soon a shard is asked for again.
const AGAIN: Duration = Duration::from_millis(200);
