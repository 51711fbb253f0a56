//! Stores that are not as they should be.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, PutMode, PutMultipartOptions, PutOptions, PutResult, Result,
};

use super::*;

/// A store in memory whose puts fail after some of them, and which can be told to be worse.
#[derive(Debug)]
pub(super) struct Odd {
    inner: InMemory,
    /// Puts that it still takes.
    pub(super) puts_left: Mutex<usize>,
    /// It heeds no If-None-Match.
    pub(super) ignores_creates: AtomicBool,
    /// It heeds no If-Match.
    pub(super) ignores_updates: AtomicBool,
    pub(super) hides_tags: AtomicBool,
    /// Files of rows that it still cuts off in their middle.
    pub(super) cuts_left: Mutex<usize>,
    /// From where files of rows were asked for.
    pub(super) begins: Mutex<Vec<u64>>,
    /// The keys that were written, as often as they were.
    pub(super) written: Mutex<Vec<String>>,
}

impl Odd {
    pub(super) fn after(puts: usize) -> Arc<Odd> {
        Arc::new(Odd {
            inner: InMemory::new(),
            puts_left: Mutex::new(puts),
            ignores_creates: AtomicBool::new(false),
            ignores_updates: AtomicBool::new(false),
            hides_tags: AtomicBool::new(false),
            cuts_left: Mutex::new(0),
            begins: Mutex::default(),
            written: Mutex::default(),
        })
    }

    fn takes_one(&self) -> bool {
        take_one(&self.puts_left)
    }

    /// The first half of what was asked for, and an error.
    async fn cut(result: GetResult) -> Result<GetResult> {
        let (meta, range) = (result.meta.clone(), result.range.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let bytes = result.bytes().await?;
        let half = bytes.slice(..bytes.len() / 2);
        let pieces = [Ok(half), Err(Error::Generic { store: "Odd", source: "cut off".into() })];
        let payload = GetResultPayload::Stream(stream::iter(pieces).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }
}

fn take_one(left: &Mutex<usize>) -> bool {
    let mut left = left.lock().unwrap();
    let takes = *left > 0;
    *left = left.saturating_sub(1);
    takes
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Odd")
    }
}

#[async_trait]
impl ObjectStore for Odd {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        if !self.takes_one() {
            return Err(Error::Generic { store: "Odd", source: "it is full".into() });
        }
        let is_ignored = match options.mode {
            PutMode::Create => self.ignores_creates.load(Ordering::SeqCst),
            PutMode::Update(_) => self.ignores_updates.load(Ordering::SeqCst),
            PutMode::Overwrite => false,
        };
        if is_ignored {
            options.mode = PutMode::Overwrite;
        }
        let put = self.inner.put_opts(location, payload, options).await?;
        self.written.lock().unwrap().push(location.to_string());
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut result = self.inner.get_opts(location, options).await?;
        if self.hides_tags.load(Ordering::SeqCst) {
            result.meta.e_tag = None;
        }
        if !location.to_string().contains("/objects/") {
            return Ok(result);
        }
        self.begins.lock().unwrap().push(result.range.start);
        let is_cut = take_one(&self.cuts_left);
        if is_cut { Odd::cut(result).await } else { Ok(result) }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
