//! Stores that are not as they should be.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMode,
    PutMultipartOptions, PutOptions, PutResult, Result,
};

use super::*;

/// A store in memory whose puts fail after some of them.
#[derive(Debug)]
pub(super) struct Odd {
    inner: InMemory,
    /// Puts that it still takes.
    pub(super) puts_left: Mutex<usize>,
    pub(super) ignores_conditions: AtomicBool,
    /// The keys that were written, as often as they were.
    pub(super) written: Mutex<Vec<String>>,
}

impl Odd {
    pub(super) fn after(puts: usize) -> Arc<Odd> {
        Arc::new(Odd {
            inner: InMemory::new(),
            puts_left: Mutex::new(puts),
            ignores_conditions: AtomicBool::new(false),
            written: Mutex::default(),
        })
    }

    fn takes_one(&self) -> bool {
        let mut left = self.puts_left.lock().unwrap();
        let takes = *left > 0;
        *left = left.saturating_sub(1);
        takes
    }
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
        if self.ignores_conditions.load(Ordering::SeqCst) {
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
        self.inner.get_opts(location, options).await
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
