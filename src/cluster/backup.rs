//! What a node does for `flotilla ctl export` and `import`.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use flotilla_rpc::admin::ImportProgress;
use flotilla_shard::{Answer, Export, Op, Saved, SavedCount};
use flotilla_state::{BanKind, Banned, ShardId};
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};

use super::{admin::deadline, member::Member};
use crate::{
    admin::{AdminError, BoxStream, Chunks},
    backup::{BackupError, Ban, Reader, Record, ShardPoint},
};

/// A chunk of an export with so many bytes takes no more records.
const CHUNK_BYTES: usize = 128 << 10;
/// What an import has on its way to the shards at a time: bytes, and pieces.
const OUTSTANDING_BYTES: usize = 4 << 20;
const OUTSTANDING_MAX: usize = 256;
/// How often an import says how far it is.
const TELL: Duration = Duration::from_millis(500);

impl Member {
    /// The records of a shard that this node leads.
    pub(super) async fn export_shard(self: &Arc<Self>, shard: ShardId) -> Result<Chunks, AdminError> {
        let export = self.shards.export(shard).await.map_err(|error| unavailable(&error))?;
        let point = ShardPoint { shard: shard.0.into(), at: export.stamp() };
        let first = stream::iter([Ok(Record::Shard(point).encode())]);
        let chunks = stream::unfold(Some(export), async |export| {
            // It reads the disk. After an error there is nothing more.
            let read = tokio::task::spawn_blocking(move || next_chunk(export?)).await;
            match read.unwrap_or_else(|error| Some(Err(unavailable(&error))))? {
                Ok((chunk, export)) => Some((Ok(chunk), Some(export))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Box::pin(first.chain(chunks)))
    }

    /// Takes the file of a backup; says now and then how far it is.
    pub(super) fn import(self: &Arc<Self>, file: Chunks) -> BoxStream<Result<ImportProgress, AdminError>> {
        let (told, progress) = mpsc::channel(1);
        let member = Arc::clone(self);
        tokio::spawn(async move {
            let last = match member.importing.try_lock() {
                Ok(_one) => Import::new(&member, &told).run(file).await,
                Err(_) => Err(AdminError::Refused("another import is going on here".to_owned())),
            };
            // Who asked may have gone.
            let _ = told.send(last).await;
        });
        Box::pin(stream::unfold(progress, async |mut progress| {
            let next = progress.recv().await?;
            Some((next, progress))
        }))
    }
}

/// The next records of a shard; `None`: there are no more.
fn next_chunk(mut export: Export) -> Option<Result<(Bytes, Export), AdminError>> {
    let mut chunk = BytesMut::new();
    while chunk.len() < CHUNK_BYTES {
        match export.next() {
            Some(Ok(saved)) => chunk.extend_from_slice(&Record::Saved(Box::new(saved)).encode()),
            Some(Err(error)) => return Some(Err(unavailable(&error))),
            None if chunk.is_empty() => return None,
            None => break,
        }
    }
    Some(Ok((chunk.freeze(), export)))
}

fn unavailable(error: &dyn std::error::Error) -> AdminError {
    AdminError::Unavailable(error.to_string())
}

/// An import that is going on.
struct Import<'a> {
    member: &'a Arc<Member>,
    told: &'a mpsc::Sender<Result<ImportProgress, AdminError>>,
    progress: ImportProgress,
    told_at: Instant,
    /// Pieces on their way, in their order.
    outstanding: VecDeque<Outstanding>,
    outstanding_bytes: usize,
}

struct Outstanding {
    answer: oneshot::Receiver<Answer>,
    count: SavedCount,
    bytes: usize,
}

impl<'a> Import<'a> {
    fn new(member: &'a Arc<Member>, told: &'a mpsc::Sender<Result<ImportProgress, AdminError>>) -> Self {
        Self {
            member,
            told,
            progress: ImportProgress::default(),
            told_at: Instant::now(),
            outstanding: VecDeque::new(),
            outstanding_bytes: 0,
        }
    }

    async fn run(mut self, mut file: Chunks) -> Result<ImportProgress, AdminError> {
        let mut reader = Reader::default();
        while let Some(chunk) = file.next().await {
            reader.feed(&chunk?);
            while let Some(record) = reader.next_record().map_err(|error| refused(&error))? {
                match record {
                    Record::Header(_) | Record::Shard(_) | Record::End(_) => {}
                    Record::Ban(ban) => self.ban(ban).await?,
                    Record::Saved(saved) => self.restore(*saved).await?,
                }
            }
        }
        reader.finish().map_err(|error| refused(&error))?;
        while !self.outstanding.is_empty() {
            self.settle().await?;
        }
        for shard in self.member.shards.ids() {
            self.complete(shard).await?;
        }
        Ok(ImportProgress { complete: true, ..self.progress })
    }

    async fn ban(&mut self, ban: Ban) -> Result<(), AdminError> {
        let Ban { kind, who, reason, by } = ban;
        let banned = BanKind::from_name(&kind).and_then(|kind| Banned::new(kind, &who).ok());
        let banned = banned.ok_or_else(|| AdminError::Refused(format!("a ban of {kind} {who:?} is none")))?;
        self.member.ban(&banned, reason, by, deadline()).await?;
        self.progress.bans += 1;
        self.tell().await
    }

    /// Sends a piece to the shards that it belongs to here.
    async fn restore(&mut self, saved: Saved) -> Result<(), AdminError> {
        let member = self.member;
        for (shard, part) in saved.split(|name| member.shards.shard_of_saved(name)) {
            let shard = shard.ok_or_else(|| AdminError::Unavailable("there is no cluster yet".to_owned()))?;
            let (count, bytes) = (part.count(), part.encode().len());
            while self.outstanding.len() >= OUTSTANDING_MAX || self.outstanding_bytes >= OUTSTANDING_BYTES {
                self.settle().await?;
            }
            let answer = member.shards.restore(shard, part, bytes);
            self.outstanding_bytes += bytes;
            self.outstanding.push_back(Outstanding { answer, count, bytes });
        }
        Ok(())
    }

    /// Waits for the oldest piece.
    async fn settle(&mut self) -> Result<(), AdminError> {
        let Some(Outstanding { answer, count, bytes }) = self.outstanding.pop_front() else { return Ok(()) };
        let answer = self.wait(answer).await?;
        self.outstanding_bytes -= bytes;
        let taken = match answer {
            Answer::Count(taken) => taken,
            // It was done before a change of the leader: how much is not known any more.
            _ => count.sum(),
        };
        let SavedCount { sessions, subscriptions, messages, retained } = count;
        self.progress.left_out += sessions.saturating_sub(taken);
        self.progress.sessions += sessions.min(taken);
        self.progress.subscriptions += subscriptions.min(taken);
        self.progress.messages += messages.min(taken);
        self.progress.retained += retained.min(taken);
        self.tell().await
    }

    /// Has the sessions of a shard begin.
    async fn complete(&mut self, shard: ShardId) -> Result<(), AdminError> {
        loop {
            let answer = self.member.shards.request(shard, Op::Restored);
            // Without a number it was done before a change of the leader.
            if self.wait(answer).await? == Answer::Count(0) {
                return Ok(());
            }
            self.tell().await?;
        }
    }

    /// Waits for a shard, as long as somebody waits for this.
    async fn wait(&self, answer: oneshot::Receiver<Answer>) -> Result<Answer, AdminError> {
        tokio::select! {
            answer = answer => answer.map_err(|_| {
                AdminError::Unknown("this node has lost the cluster; run the import again".to_owned())
            }),
            () = self.told.closed() => Err(AdminError::Unknown("nobody waits for the import".to_owned())),
        }
    }

    async fn tell(&mut self) -> Result<(), AdminError> {
        if self.told_at.elapsed() < TELL {
            return Ok(());
        }
        self.told_at = Instant::now();
        let gone = |_| AdminError::Unknown("nobody waits for the import".to_owned());
        self.told.send(Ok(self.progress)).await.map_err(gone)
    }
}

fn refused(error: &BackupError) -> AdminError {
    AdminError::Refused(error.to_string())
}
