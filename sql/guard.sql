CREATE VIEW custodian.region_rules AS
    SELECT line_number, kind AS type, arguments, region, organisation, error, loaded, file_name
    FROM custodian.read_region_files();
COMMENT ON VIEW custodian.region_rules IS 'each line of the region rules file, and of files that it includes, as it is now, with what is wrong with it and whether it is in force';
