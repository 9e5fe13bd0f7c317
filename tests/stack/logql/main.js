// Prints, as a JSON list, the queries that are no LogQL: each with a mark at the first error. The
// argument is a JSON list of queries.
import { parser } from "@grafana/lezer-logql"

const found = []
for (const query of JSON.parse(process.argv[2])) {
  let place = -1
  parser.parse(query).iterate({
    enter: (node) => {
      if (node.type.isError && place < 0) place = node.from
    },
  })
  if (place >= 0) found.push(`${query.slice(0, place)}<here>${query.slice(place)}`)
}
console.log(JSON.stringify(found))
