//! `flotilla ctl import`.

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use flotilla::backup::Reader;
use flotilla_rpc::admin::{BackupChunk, ImportProgress, ListShardsRequest};
use futures_util::stream;
use tokio::time::timeout;

use super::{super::complain, CtlError, Output, connection::Node};

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The file that `flotilla ctl export` has written.
    file: PathBuf,
    /// Import into a cluster that has sessions. They stay as they are: those of the file with the same client identifiers are left
    /// out.
    #[arg(long)]
    merge: bool,
}

/// Has the cluster take over a file that is whole. `patience` is how long nothing may go on.
pub(super) async fn run(
    args: ImportArgs,
    mut node: Node,
    patience: Duration,
    output: Output,
) -> Result<(), CtlError> {
    let ImportArgs { file: path, merge } = args;
    let mut file = File::open(&path)?;
    check(&mut file)?;
    let silent = |_| CtlError::Late(patience);
    if !merge {
        let sessions = timeout(patience, sessions(&mut node)).await.map_err(silent)??;
        if sessions > 0 {
            return Err(CtlError::HasSessions(sessions));
        }
    }
    file.rewind()?;
    let chunks = stream::unfold(file, async |mut file| {
        match read(&mut file) {
            Ok(data) if data.is_empty() => None,
            Ok(data) => Some((BackupChunk { data }, file)),
            Err(error) => {
                // What has come so far lacks its end.
                complain(format_args!("error: the file cannot be read: {error}"));
                None
            }
        }
    });
    let told = timeout(patience, node.client.import(chunks)).await.map_err(silent)?;
    let mut told = told.map_err(|status| node.refusal(&status))?.into_inner();
    let mut last = ImportProgress::default();
    while let Some(progress) =
        timeout(patience, told.message()).await.map_err(silent)?.map_err(|status| node.refusal(&status))?
    {
        last = progress;
    }
    if !last.complete {
        return Err(CtlError::Unfinished);
    }
    let ImportProgress { sessions, subscriptions, messages, retained, bans, left_out, complete: _ } = last;
    let json = serde_json::json!({
        "file": path, "sessions": sessions, "subscriptions": subscriptions, "messages": messages,
        "retained": retained, "bans": bans, "left_out": left_out,
    });
    output.print(&json, || {
        let left_out = match left_out {
            0 => String::new(),
            some => format!("; {some} sessions were left out, for their clients have one here"),
        };
        format!(
            "{sessions} sessions with {subscriptions} subscriptions and {messages} messages, {retained} retained \
             messages and {bans} bans are imported{left_out}"
        )
    })
}

/// Reads all of it: nothing is changed by a file that is not whole.
fn check(file: &mut File) -> Result<(), CtlError> {
    let mut reader = Reader::default();
    loop {
        let bytes = read(file)?;
        if bytes.is_empty() {
            break;
        }
        reader.feed(&bytes);
        while reader.next_record()?.is_some() {}
    }
    reader.finish()?;
    Ok(())
}

fn read(file: &mut File) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(CHUNK_BYTES);
    file.take(CHUNK_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Sessions that serve, as the leaders of their shards count them.
async fn sessions(node: &mut Node) -> Result<u64, CtlError> {
    let list = async |mut node: Node| {
        let me = node.status().await?.this_node;
        let reply =
            node.client.list_shards(ListShardsRequest {}).await.map_err(|status| node.refusal(&status))?;
        let led = reply.into_inner().shards.into_iter().filter(|shard| shard.leader == me);
        let serving =
            led.filter_map(|shard| shard.replica).map(|it| it.sessions.saturating_sub(it.restoring));
        Ok(serving.sum::<u64>())
    };
    let (sessions, _, complete) = node.ask_all(list).await?;
    if complete { Ok(sessions.iter().sum()) } else { Err(CtlError::Incomplete) }
}

/// What a node takes at once is some more.
const CHUNK_BYTES: usize = 64 << 10;
