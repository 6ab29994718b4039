// A table of rows that come and go; on a phone each row is a card. Vue escapes all text.
export default {
  props: { columns: Array, rows: Array, empty: String, caption: String },
  emits: ["act"],
  template: `
    <div class="grid-frame">
      <table v-if="rows.length" class="grid" :aria-label="caption">
        <thead><tr><th v-for="c in columns" :key="c.key" scope="col" :class="c.look">{{ c.label }}</th></tr></thead>
        <tbody>
          <tr v-for="r in rows" :key="r.id">
            <td v-for="(c, i) in columns" :key="c.key" :class="c.look" :data-label="c.label">
              <div class="cell" :title="r.cells[i].title">
                <a v-if="r.cells[i].href" :href="r.cells[i].href">{{ r.cells[i].text }}</a>
                <span v-else-if="r.cells[i].tone" class="badge" :class="r.cells[i].tone">{{ r.cells[i].text }}</span>
                <span v-else-if="r.cells[i].text">{{ r.cells[i].text }}</span>
                <small v-if="r.cells[i].sub">{{ r.cells[i].sub }}</small>
                <span v-if="r.cells[i].bar" class="bar" role="img" :aria-label="r.cells[i].sub">
                  <i v-for="b in r.cells[i].bar" :key="b.look" :class="b.look" :style="{ flexGrow: b.count }"></i>
                </span>
                <span v-if="r.cells[i].acts" class="acts">
                  <button v-for="a in r.cells[i].acts" :key="a" type="button" class="act"
                          @click="$emit('act', { id: r.id, act: a })">{{ a }}</button>
                </span>
              </div>
            </td>
          </tr>
        </tbody>
      </table>
      <p v-else class="empty">{{ empty }}</p>
    </div>`,
};
