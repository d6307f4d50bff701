pub fn check() -> integration::Result<()> {
    Ok(())
}
