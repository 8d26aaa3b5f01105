//! Content type by extension; no sniffing (artifacts §6).

use super::mime_table::TYPES;

/// Types the table has not; looked up with the extension in lower case, as a platform's database would.
const FALLBACK: &[(&str, &str)] = &[
    (".css", "text/css; charset=utf-8"),
    (".gif", "image/gif"),
    (".gz", "application/gzip"),
    (".htm", "text/html; charset=utf-8"),
    (".html", "text/html; charset=utf-8"),
    (".jpeg", "image/jpeg"),
    (".jpg", "image/jpeg"),
    (".js", "text/javascript; charset=utf-8"),
    (".json", "application/json"),
    (".md", "text/markdown; charset=utf-8"),
    (".pdf", "application/pdf"),
    (".png", "image/png"),
    (".svg", "image/svg+xml"),
    (".txt", "text/plain; charset=utf-8"),
    (".wasm", "application/wasm"),
    (".webp", "image/webp"),
    (".xml", "text/xml; charset=utf-8"),
];

/// The content type of a file by its name: from the last `.`, inclusive.
pub fn content_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let Some(dot) = name.rfind('.') else { return "binary/octet-stream" };
    let extension = &name[dot..];
    if let Ok(i) = TYPES.binary_search_by(|(e, _)| e.as_bytes().cmp(extension.as_bytes())) {
        return TYPES[i].1;
    }
    let lower = extension.to_lowercase();
    FALLBACK.iter().find(|(e, _)| *e == lower).map_or("binary/octet-stream", |(_, t)| t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_the_specification() {
        for (file, expected) in [
            ("a.html", "text/html"),
            ("A.HTML", "text/html; charset=utf-8"),
            ("a.xml", "text/xml"),
            ("a.yml", "text/yaml"),
            ("a.yaml", "text/yaml"),
            ("a.zst", "application/zstd"),
            ("a.zip", "application/zip"),
            ("a.jar", "application/java-archive"),
            ("noext", "binary/octet-stream"),
            ("a.", "binary/octet-stream"),
            ("d.d/.bashrc", "binary/octet-stream"),
            ("a.jsonl", "binary/octet-stream"),
            ("a.js", "application/javascript"),
            ("a.json", "application/json"),
            ("a.log", "text/plain"),
            (".txt", "text/plain"),
            ("a.css", "text/css"),
            ("a.csv", "text/csv"),
            ("a.png", "image/png"),
            ("a.svg", "image/svg+xml"),
            ("a.bmp", "image/x-ms-bmp"),
            ("a.deb", "application/octet-stream"),
            ("a.bin", "application/octet-stream"),
            ("a.JPG", "image/jpeg"),
            ("a.tar.gz", "application/gzip"),
        ] {
            assert_eq!(content_type(file), expected, "{file}");
        }
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(TYPES.windows(2).all(|w| w[0].0.as_bytes() < w[1].0.as_bytes()));
    }
}
