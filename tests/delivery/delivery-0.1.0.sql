BEGIN TRANSACTION;
CREATE TABLE backlog (
    channel TEXT PRIMARY KEY, since INTEGER NOT NULL, done INTEGER NOT NULL, mark TEXT NOT NULL,
    waiting INTEGER NOT NULL, until INTEGER NOT NULL, reached INTEGER NOT NULL
);
INSERT INTO "backlog" VALUES('traces http://collector:4318/v1/traces',1763999995000000000,4,'0123456789abcdef',7,1763999999000000000,1763999997000000000);
CREATE TABLE channel (name TEXT PRIMARY KEY);
INSERT INTO "channel" VALUES('traces http://collector:4318/v1/traces');
INSERT INTO "channel" VALUES('logs http://collector:4318/v1/logs');
CREATE TABLE refused (
    channel TEXT NOT NULL, created INTEGER NOT NULL, task_name TEXT NOT NULL,
    action TEXT NOT NULL, reason TEXT NOT NULL, refused_at REAL NOT NULL,
    PRIMARY KEY (channel, created, task_name, action)
);
INSERT INTO "refused" VALUES('traces http://collector:4318/v1/traces',1763999993000000000,'etl','success','too old',1764000001.5);
CREATE TABLE unknown (until INTEGER NOT NULL);
INSERT INTO "unknown" VALUES(1763999999999999999);
CREATE TABLE writer (
    id TEXT NOT NULL, channel TEXT NOT NULL, since INTEGER NOT NULL, waiting INTEGER NOT NULL,
    PRIMARY KEY (id, channel)
);
INSERT INTO "writer" VALUES('56bbafe736cd4201','traces http://collector:4318/v1/traces',1764000000000000000,2);
INSERT INTO "writer" VALUES('56bbafe736cd4201','logs http://collector:4318/v1/logs',1763999999000000000,3);
COMMIT;
