-- Evidence: the keys of this database.

-- The extension's own keys. A dump carries their names and not the keys: see custodian.export_keys().
SELECT custodian.create_missing_keys();
