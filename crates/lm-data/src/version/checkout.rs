//! A version as files of its own, checked against the digests that it is known by.
//!
//! It must never hand out what is not what was published.
//!
//! Start reading at [`checkout`] and [`export`].

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::error::io_error;
use crate::version::merkle::{self, Growing};
use crate::version::new_folder::NewFolder;
use crate::version::rows::VersionRows;
use crate::version::segment::digest;
use crate::{DataError, DataHome, Manifest, manifest};

/// Writes a version into a new folder: `part-N.parquet` in order, `manifest.json`, its contract and its sources. Each
/// file is byte for byte what was published, or it is an error. The folder appears when all of it is there.
///
/// # Errors
/// [`DataError::Exists`], [`DataError::Damaged`], [`DataError::UnknownVersion`].
pub fn checkout(
    home: &DataHome,
    name: &str,
    version: Option<&str>,
    target: &Path,
) -> Result<Manifest, DataError> {
    let dataset = home.dataset(name)?;
    dataset.must_exist()?;
    let manifest = manifest::newest_or(&dataset, version)?;
    let whole = NewFolder::begin(target)?;
    for (i, segment) in manifest.segments.iter().enumerate() {
        let object = dataset.objects.join(format!("{}.parquet", segment.hash));
        let part = whole.path().join(format!("part-{i:05}.parquet"));
        fs::copy(&object, &part).map_err(io_error("copy", &object))?;
        let (hash, _) = digest(&part)?;
        if hash != segment.hash {
            let detail = format!("its digest is {hash}");
            return Err(DataError::Damaged { path: object, detail });
        }
    }
    let folder = dataset.versions.join(manifest.folder_name());
    for file in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
        let file = file.map_err(io_error("list", &folder))?.path();
        let to = whole.path().join(file.file_name().unwrap_or_default());
        fs::copy(&file, &to).map_err(io_error("copy", &file))?;
    }
    whole.show()?;
    Ok(manifest)
}

/// Writes the rows of a version as JSON lines, each as it came, and checks them against the version's tree. Returns
/// how many.
///
/// # Errors
/// [`DataError::Damaged`], [`DataError::UnknownVersion`], [`DataError::Io`] when `out` cannot be written.
pub fn export(
    home: &DataHome,
    name: &str,
    version: Option<&str>,
    out: &mut dyn Write,
) -> Result<u64, DataError> {
    let dataset = home.dataset(name)?;
    dataset.must_exist()?;
    let manifest = manifest::newest_or(&dataset, version)?;
    let folder = dataset.versions.join(manifest.folder_name());
    let mut tree = Growing::default();
    let mut n_rows = 0;
    for row in VersionRows::open(&dataset, &manifest)? {
        let row = row?;
        tree.push(merkle::leaf(row.text.as_bytes()));
        out.write_all(row.text.as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .map_err(io_error("write the rows of", &folder))?;
        n_rows += 1;
    }
    out.flush().map_err(io_error("write the rows of", &folder))?;
    if !manifest.is_first_format() && tree.tree() != manifest.rows {
        let detail = "its rows are not those that were published".to_owned();
        return Err(DataError::Damaged { path: folder, detail });
    }
    Ok(n_rows)
}
