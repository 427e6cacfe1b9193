-- Groups of devices. Each member is a row, so that a change of one rewrites no others.

CREATE TABLE weir.groups (
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    body jsonb NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE weir.group_members (
    tenant text COLLATE "C" NOT NULL,
    group_id text COLLATE "C" NOT NULL,
    device text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, group_id, device)
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['groups', 'group_members'] LOOP
        EXECUTE format('ALTER TABLE weir.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE weir.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY of_tenant ON weir.%I USING (tenant = current_setting(''weir.tenant'', true)) '
            'WITH CHECK (tenant = current_setting(''weir.tenant'', true))',
            name
        );
    END LOOP;
END
$$;
